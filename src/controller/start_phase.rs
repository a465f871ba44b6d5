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
    /// Stops, to give that place up for an export that waits.
    Leaving(P),
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
    /// Another export waits for the place.
    AskedBack,
    /// The export wants to open sessions.
    SessionsWanted,
}

impl<P, W> StartPhase<P, W> {
    /// Returns the phase after an event. An event that does not belong to the phase changes nothing.
    #[must_use]
    pub(super) fn after(self, event: StartEvent<P, W>) -> Self {
        match (self, event) {
            (Self::Leaving(place), _) | (Self::Slow(place), StartEvent::AskedBack) => Self::Leaving(place),
            (_, StartEvent::SessionsWanted) | (Self::Queued, StartEvent::NotAdmitted) => Self::Started,
            (Self::Queued, StartEvent::Admitted(place, wait)) => Self::Listing(place, wait),
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
        use StartEvent::{Admitted, AskedBack, NotAdmitted, SessionsWanted, SlowPlace};
        use StartPhase::{Leaving, Listing, Queued, Slow, Started};
        let listing = Listing("first", "wait");
        let (slow, leaving) = (Slow("old"), Leaving("old"));
        // Phase; the phases after a first place, none, the next place, that is asked back, the request for sessions.
        let table = [
            (Queued, [listing.clone(), Started, Queued, Queued, Started]),
            (
                listing.clone(),
                [listing.clone(), listing.clone(), Slow("next"), listing, Started],
            ),
            (
                slow.clone(),
                [slow.clone(), slow.clone(), slow, leaving.clone(), Started],
            ),
            (leaving.clone(), [(); 5].map(|()| leaving.clone())),
            (Started, [(); 5].map(|()| Started)),
        ];
        for (phase, row) in table {
            let events = [
                Admitted("first", "wait"),
                NotAdmitted,
                SlowPlace("next"),
                AskedBack,
                SessionsWanted,
            ];
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
