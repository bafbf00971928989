//! RESP2 and RESP3: frames, command table, session state.
