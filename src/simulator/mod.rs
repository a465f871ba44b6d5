//! An Activity Tracker and its UAA that behave as documented, and misbehave on demand.

mod block;
mod events;
mod layout;
mod random;
mod settings;
