//! What lies on top of an image: of the mounts that are the same on every layer those that are the sandbox's own.

use crate::isolation::plan::{Access, Content, Mount, Origin, SECRETS};

/// Whether it brings packages, and not a system.
pub(super) fn is_store(mount: &Mount) -> bool {
    matches!(mount, Mount::Store { .. })
}

/// The system is the image's: its `/usr`, its `/etc`, its links. `/proc`, `/dev` and `/sys` are the engine's to make, which
/// covers in them what is the host's.
pub(super) fn on_top_of_an_image(mounts: Vec<Mount>) -> Vec<Mount> {
    let sealed: Vec<String> = mounts.iter().filter_map(sealed).collect();
    mounts.into_iter().filter_map(|mount| kept(mount, &sealed)).collect()
}

fn sealed(mount: &Mount) -> Option<String> {
    match mount {
        Mount::Seal { at } => Some(at.clone()),
        _ => None,
    }
}

fn kept(mount: Mount, sealed: &[String]) -> Option<Mount> {
    match mount {
        Mount::Bind { origin: Origin::Caller, .. } | Mount::Store { .. } => Some(mount),
        // A cover over what must stay hidden. Others can be written to, as shared memory, which is the engine's.
        Mount::Tmpfs { ref at, .. } => sealed.contains(at).then_some(mount),
        // An engine makes no files. The secret's own is shown instead of a copy.
        Mount::File { at, content: Content::Given(source), .. } if at.starts_with(SECRETS) => {
            Some(Mount::given(source, at, Access::ReadOnly))
        }
        Mount::Bind { .. }
        | Mount::File { .. }
        | Mount::Proc { .. }
        | Mount::Dev { .. }
        | Mount::Dir { .. }
        | Mount::Symlink { .. }
        | Mount::Seal { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_is_the_images_and_the_rest_is_ours() {
        let at = |at: &str| at.to_owned();
        let cover = Mount::Tmpfs { at: at("/workspace/state"), size_bytes: 4096, mode: 0o555 };
        let secret = Mount::File {
            at: at("/run/secrets/KEY"),
            mode: 0o400,
            content: Content::Given("/home/me/key".into()),
        };
        let workspace = Mount::given("/src", "/workspace", Access::ReadWrite);
        let mounts = vec![
            Mount::system("/usr"),
            Mount::symlink("usr/bin", "/bin"),
            Mount::text("/etc/passwd", "x"),
            Mount::Proc { at: at("/proc") },
            Mount::Dev { at: at("/dev") },
            Mount::Tmpfs { at: at("/dev/shm"), size_bytes: 1, mode: 0o1777 },
            Mount::Seal { at: at("/dev") },
            Mount::Dir { at: at("/run/secrets"), mode: 0o700 },
            secret,
            workspace.clone(),
            cover.clone(),
            Mount::Seal { at: at("/workspace/state") },
            Mount::Seal { at: at("/") },
        ];
        let shown = Mount::given("/home/me/key", "/run/secrets/KEY", Access::ReadOnly);
        assert_eq!(on_top_of_an_image(mounts), [shown, workspace, cover]);
    }
}
