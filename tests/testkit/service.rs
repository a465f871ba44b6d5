//! Settings, faults and sessions of a simulated service.

use eventexport::simulator::{Effect, Fault, RequestKind, Settings, Simulator};
use jiff::civil::Date;

/// Returns the settings of a service on that day.
pub(crate) fn service_on(today: Date) -> Settings {
    Settings {
        today: Some(today),
        ..Settings::default()
    }
}

/// Replies to requests of these kinds with an error.
pub(crate) fn refuse(status: u16, message: &str, on: &[RequestKind]) -> Fault {
    let (message, retry_after) = (message.to_owned(), None);
    let effect = Effect::Status {
        status,
        retry_after,
        message,
    };
    Fault::new("refused", effect, on)
}

/// Replies to requests of these kinds late.
pub(crate) fn delay(millis: u64, on: &[RequestKind]) -> Fault {
    Fault::new("late", Effect::Delay { millis }, on)
}

/// Returns the ids of all open sessions.
pub(crate) fn open_ids(simulator: &Simulator) -> Vec<String> {
    let open = simulator.open_sessions().into_iter();
    open.map(|open| open.id).collect()
}
