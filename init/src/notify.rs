pub const PATH: &str = "/run/agent-notify";
pub struct NotifySocket;
pub struct Message {
    pub pid: i32,
    pub notices: Vec<crate::supervise::Notice>,
}
impl Message {
    pub fn is_from(&self, _: i32) -> bool {
        false
    }
}
impl NotifySocket {
    pub async fn next(&self) -> Message {
        todo!()
    }
}
