//! Two at once: whatever two processes do to one resource, one archive or one space, everything is stored once, no
//! session stays open, nobody's session is touched but one's own, and people are told.

mod clusters;
mod fixture;
mod freeze_proxy;
mod frozen_leader;
mod operator_and_run;
mod overlap;
mod two_operators;
