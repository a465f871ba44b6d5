//! Phases of an export that starts, with the place that it holds in the queues for starts. Pure: no I/O, no clock.

/// Phase of an export that starts. `P` is a place in a queue, given back when it is dropped; `W` is the wait for the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StartPhase<P, W> {
    /// Waits for a place among the first listings.
    Queued,
    /// Reads its Secrets and lists its bucket for the first time. Waits meanwhile for a place among the exports with slow
    /// peers.
    Listing(P, W),
    /// Has a place among the exports with slow peers.
    Slow(P),
    /// Wants sessions, or never starts. Holds no place.
    Started,
}

/// Event of an export that starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StartEvent<P, W> {
    /// The export has its first place, and begins to wait for the next one.
    Admitted(P, W),
    /// The task ended before it had a place.
    NotAdmitted,
    /// The wait for the next place is over.
    SlowPlace(P),
    /// The export wants to open sessions.
    SessionsWanted,
}

impl<P, W> StartPhase<P, W> {
    /// Returns the phase after an event. An event that does not belong to the phase changes nothing.
    #[must_use]
    pub(super) fn after(self, event: StartEvent<P, W>) -> Self {
        match (self, event) {
            (_, StartEvent::SessionsWanted) | (Self::Queued, StartEvent::NotAdmitted) => Self::Started,
            (Self::Queued, StartEvent::Admitted(place, wait)) => Self::Listing(place, wait),
            (Self::Listing(..), StartEvent::SlowPlace(place)) => Self::Slow(place),
            (phase, StartEvent::Admitted(..) | StartEvent::NotAdmitted | StartEvent::SlowPlace(_)) => phase,
        }
    }

    /// Returns true if the export wants sessions, or never starts.
    pub(super) const fn is_started(&self) -> bool {
        matches!(self, Self::Started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_holds_one_place_until_it_wants_sessions() {
        use StartEvent::{Admitted, NotAdmitted, SessionsWanted, SlowPlace};
        use StartPhase::{Listing, Queued, Slow, Started};
        let listing = Listing("first", "wait");
        // Phase; the phases after a first place, none, the next place, the request for sessions.
        let table = [
            (Queued, [listing.clone(), Started, Queued, Started]),
            (listing.clone(), [listing.clone(), listing, Slow("next"), Started]),
            (Slow("old"), [Slow("old"), Slow("old"), Slow("old"), Started]),
            (Started, [Started, Started, Started, Started]),
        ];
        for (phase, row) in table {
            let events = [
                Admitted("first", "wait"),
                NotAdmitted,
                SlowPlace("next"),
                SessionsWanted,
            ];
            for (event, expected) in events.into_iter().zip(row) {
                assert_eq!(
                    phase.clone().after(event.clone()),
                    expected,
                    "{phase:?}, {event:?}"
                );
                assert_eq!(phase.clone().after(event).is_started(), expected == Started);
            }
        }
    }
}
