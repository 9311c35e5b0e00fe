//! The list of all store paths that an environment needs: `envs/<id>.closure`.
//!
//! A list is whole or it is none: its first line says what it is, its second which environment it belongs to, and its last
//! how many paths there are.

use std::path::{Path, PathBuf};

/// First line of a list; its last one says how many paths there are between them.
const HEAD: &str = "agent-shim closure 1";

/// The list of an environment's store paths, as it is written.
pub(super) fn text(store_path: &Path, closure: &[PathBuf]) -> String {
    let mut text = format!("{HEAD}\n{}\n", store_path.display());
    for path in closure {
        text.extend([&path.display().to_string(), "\n"]);
    }
    text.extend(["end ", &closure.len().to_string(), "\n"]);
    text
}

/// The paths of a list that is whole and belongs to this store path.
pub(super) fn parse(bytes: &[u8], store_path: &Path) -> Option<Vec<PathBuf>> {
    let text = str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
    let mut lines = text.split('\n');
    (lines.next()? == HEAD).then_some(())?;
    (Path::new(lines.next()?) == store_path).then_some(())?;
    let count: usize = lines.next_back()?.strip_prefix("end ")?.parse().ok()?;
    let paths: Vec<PathBuf> = lines.map(PathBuf::from).collect();
    let store_dir = store_path.parent()?;
    // They become mounts, so a list that names anything else was not written by us.
    let are_ours = paths.iter().all(|path| is_store_path(path, store_dir));
    (paths.len() == count && are_ours && paths.iter().any(|path| path == store_path)).then_some(paths)
}

/// Whether it lies directly in the store.
pub(super) fn is_store_path(path: &Path, store_dir: &Path) -> bool {
    path.parent() == Some(store_dir) && path.file_name().is_some_and(|name| name != "." && name != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_of_a_list_is_no_list() {
        let store_path = Path::new("/nix/store/abc-environment");
        let whole = text(store_path, &["/nix/store/abc-environment".into(), "/nix/store/def-jq".into()]);
        assert!(parse(whole.as_bytes(), store_path).is_some());
        for end in 0..whole.len() {
            assert!(parse(&whole.as_bytes()[..end], store_path).is_none(), "{end}");
        }
    }
}
