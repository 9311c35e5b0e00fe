//! A temporary stand-in until the real one is merged.
pub(crate) const PATH: &str = "/run/agent-notify";
pub(crate) struct NotifySocket;
pub(crate) struct Message {
    pub(crate) pid: i32,
    pub(crate) notices: Vec<crate::supervise::Notice>,
}
impl Message {
    pub(crate) fn is_from(&self, _: i32) -> bool {
        false
    }
}
impl NotifySocket {
    pub(crate) fn open() -> std::io::Result<Self> {
        Ok(Self)
    }
    pub(crate) async fn next(&self) -> Message {
        std::future::pending().await
    }
}
