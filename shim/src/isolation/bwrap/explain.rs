//! What bwrap's complaints mean.

use crate::isolation::error::IsolationError;
use crate::isolation::said::short;
use crate::isolation::userns::switched_off_by;

/// What bwrap prints when it may not make namespaces: its own words from 0.8 to 0.11, and the two ways
/// in which AppArmor lets it make one and then denies what it is for.
const NO_NAMESPACES: [&str; 7] = [
    "No permissions to creat",
    "Creating new namespace failed",
    "setting up uid map: ",
    "setting up gid map: ",
    "loopback: Failed RTM_NEWADDR: Operation not permitted",
    "unshare user ns: ",
    // Engines cover parts of /proc, and the kernel lets nobody mount a new one that shows more.
    "Can't mount proc on ",
];

/// Classifies what was printed. `setting` reads a file below /proc/sys, `version` asks bwrap; both only when needed.
pub(crate) fn explain(
    printed: &str,
    setting: impl Fn(&str) -> Option<String>,
    version: impl FnOnce() -> Option<String>,
) -> IsolationError {
    let Some(said) = last_words(printed, "bwrap: ") else {
        // Init refuses to run in a sandbox that it cannot close, or whose store lacks a path.
        return if let Some(said) = last_words(printed, "agent-init: error: ") {
            IsolationError::Failed { program: "agent-init", said }
        } else {
            let said = "it exited without saying why".to_owned();
            IsolationError::Failed { program: "bwrap", said }
        };
    };
    if said.contains("Unknown option") {
        let found = version().unwrap_or_else(|| "of an unknown version".to_owned());
        return IsolationError::BwrapTooOld { found, needed: super::OLDEST };
    }
    if NO_NAMESPACES.iter().any(|words| said.contains(words)) {
        return IsolationError::NoUserNamespaces { switch: switched_off_by(setting), said };
    }
    IsolationError::Failed { program: "bwrap", said }
}

/// A program's last words. Both print to the same place, so only lines that begin as its own do count.
fn last_words(printed: &str, of: &str) -> Option<String> {
    let said = printed.lines().rev().find_map(|line| line.strip_prefix(of))?;
    Some(short(said))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isolation::ErrorKind;

    fn with(printed: &str, settings: &[(&str, &str)]) -> IsolationError {
        let setting = |name: &str| {
            settings.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        explain(printed, setting, || Some("0.4.0".to_owned()))
    }

    #[test]
    fn each_distributions_switch_is_named() {
        let denied = "bwrap: No permissions to creating new namespace, likely because ...\n";
        let error = with(denied, &[("kernel/unprivileged_userns_clone", "0\n")]);
        assert_eq!(error.kind(), ErrorKind::Requirement);
        assert!(error.hint().unwrap().contains("kernel.unprivileged_userns_clone=1"));

        let apparmor =
            [("kernel/apparmor_restrict_unprivileged_userns", "1"), ("user/max_user_namespaces", "9")];
        for printed in [
            "bwrap: setting up uid map: Permission denied",
            "bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted",
        ] {
            assert!(with(printed, &apparmor).hint().unwrap().contains("AppArmor"), "{printed}");
        }

        let full = "bwrap: Creating new namespace failed: nesting depth or /proc/sys/user/max_*_namespaces exceeded (ENOSPC)";
        assert!(
            with(full, &[("user/max_user_namespaces", "0")]).hint().unwrap().contains("max_user_namespaces")
        );
        assert!(with(full, &[]).hint().unwrap().contains("container"));
    }

    #[test]
    fn an_unknown_option_means_too_old() {
        let error = with("bwrap: Unknown option --disable-userns\n", &[]);
        assert_eq!(error.to_string(), "bubblewrap 0.4.0 is too old: 0.8.0 or later is needed");
        assert_eq!(error.kind(), ErrorKind::Requirement);
    }

    #[test]
    fn anything_else_is_passed_on_without_its_escape_sequences() {
        let error = with("noise\nbwrap: Can't find source path \x1b[2J/x: No such file\ninit: bye", &[]);
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert_eq!(error.to_string(), "bwrap failed: Can't find source path ?[2J/x: No such file");
        assert!(with("", &[]).to_string().contains("without saying why"));
        let refused = "agent-init: error: allowing /nix/store/x: No such file or directory\n";
        let error = with(refused, &[]).to_string();
        assert_eq!(error, "agent-init failed: allowing /nix/store/x: No such file or directory");
    }
}
