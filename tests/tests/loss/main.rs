//! Nothing is lost: whatever is killed, at whatever moment, what the agent has done is at home after the next pull.

mod storm;
