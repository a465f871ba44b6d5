//! Split brain: with two processes for one resource, archive or space, everything is stored once, no session stays
//! open, foreign sessions are not touched, and users get a report.

mod clusters;
mod fixture;
mod frozen_leader;
mod operator_and_run;
mod overlap;
mod scopes;
