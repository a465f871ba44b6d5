//! Two at once: whatever two processes do to one resource, one archive or one space, everything is stored once, no
//! session stays open, nobody's session is touched but one's own, and people are told.

mod beside;
mod clusters;
mod frozen;
mod operators;
mod overlap;
mod scene;
mod tripwire;
