//! Tests of the session as a machine.
