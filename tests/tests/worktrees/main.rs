//! Several lines of work in one sandbox: worktrees, each with a session of its own.

mod hostile;
mod life;
mod sessions;
mod support;
