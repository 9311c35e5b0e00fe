//! What runs beside everything else, on the one thread.

use std::pin::Pin;

use tokio::task::{JoinHandle, spawn_local};

/// Runs it until it ends. In a box: what the runtime adds to a task is then there once, and not for each kind of them.
pub(crate) fn start(task: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
    let task: Pin<Box<dyn Future<Output = ()>>> = Box::pin(task);
    spawn_local(task)
}
