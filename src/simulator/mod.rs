//! An Activity Tracker and its UAA that behave as documented, and misbehave on demand.
