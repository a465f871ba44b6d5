//! Phases of an export that starts, with the place that it holds in the queues for starts. Pure: no I/O, no clock.

/// Phase of an export that starts. `P` is a place in a queue, given back when it is dropped; `W` is the wait for the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StartPhase<P, W> {
    /// Reads its Secrets and lists its bucket for the first time. Waits meanwhile for a place among the exports with slow
    /// peers.
    Listing(P, W),
    /// Has a place among the exports with slow peers.
    Slow(P),
    /// Stops, to give that place up for an export that waits.
    Leaving(P),
    /// Wants sessions, or never starts. Holds no place.
    Started,
}

/// Event of an export that starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StartEvent<P> {
    /// The wait for the next place is over.
    SlowPlace(P),
    /// Another export waits for the place.
    AskedBack,
    /// The export wants to open sessions.
    SessionsWanted,
}

impl<P, W> StartPhase<P, W> {
    /// Returns the phase after an event. An event that does not belong to the phase changes nothing.
    #[must_use]
    pub(super) fn after(self, event: StartEvent<P>) -> Self {
        match (self, event) {
            (Self::Leaving(place), _) | (Self::Slow(place), StartEvent::AskedBack) => Self::Leaving(place),
            (_, StartEvent::SessionsWanted) => Self::Started,
            (Self::Listing(..), StartEvent::SlowPlace(place)) => Self::Slow(place),
            (phase, _) => phase,
        }
    }

    /// Returns true if the export wants sessions, never starts, or stops.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self, Self::Started | Self::Leaving(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_holds_one_place_until_it_wants_sessions() {
        use StartEvent::{AskedBack, SessionsWanted, SlowPlace};
        use StartPhase::{Leaving, Listing, Slow, Started};
        let listing = Listing("first", "wait");
        let leaving = Leaving("old");
        // Phase; the phases after the next place, that is asked back, the request for sessions.
        let table = [
            (listing.clone(), [Slow("next"), listing, Started]),
            (Slow("old"), [Slow("old"), leaving.clone(), Started]),
            (leaving.clone(), [(); 3].map(|()| leaving.clone())),
            (Started, [(); 3].map(|()| Started)),
        ];
        for (phase, row) in table {
            let events = [SlowPlace("next"), AskedBack, SessionsWanted];
            for (event, expected) in events.into_iter().zip(row) {
                assert_eq!(
                    phase.clone().after(event.clone()),
                    expected,
                    "{phase:?}, {event:?}"
                );
                let over = matches!(expected, Started | Leaving(_));
                assert_eq!(phase.clone().after(event).is_over(), over);
            }
        }
    }
}
