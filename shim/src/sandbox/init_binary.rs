//! Where init's binary is on this host.

use std::{
    env, io,
    path::{Path, PathBuf},
};

/// Names init's binary where it is neither beside the shim nor in `../libexec/agent-shim`.
pub(crate) const INIT_VARIABLE: &str = "AGENT_SHIM_INIT";

const INIT: &str = "agent-init";

/// Init's binary, with no symbolic link in its path.
///
/// One beside the shim comes first: it was built with it.
pub(crate) fn find() -> io::Result<PathBuf> {
    // /proc/self/exe has no symbolic links in it.
    let shim = env::current_exe()?;
    let given = env::var_os(INIT_VARIABLE).map(PathBuf::from);
    choose(&shim, given.as_deref())
}

fn choose(shim: &Path, given: Option<&Path>) -> io::Result<PathBuf> {
    let folder = shim.parent().unwrap_or(Path::new("/"));
    let places = [folder.join(INIT), folder.join("../libexec/agent-shim").join(INIT)];
    let found = places.iter().map(PathBuf::as_path).chain(given).find_map(|path| path.canonicalize().ok());
    found.ok_or_else(|| {
        let looked = places.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" nor ");
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("it is neither {looked}, and {INIT_VARIABLE} names no file"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::TempDir;
    use std::fs;

    #[test]
    fn the_one_beside_the_shim_comes_first() {
        let temp = TempDir::new();
        let root = temp.path().canonicalize().unwrap();
        let shim = root.join("bin/agent-shim");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::create_dir_all(root.join("libexec/agent-shim")).unwrap();
        let given = root.join("given");
        let [beside, libexec] =
            ["bin/agent-init", "libexec/agent-shim/agent-init"].map(|path| root.join(path));

        let error = choose(&shim, Some(&given)).unwrap_err().to_string();
        assert!(error.contains("agent-init") && error.contains(INIT_VARIABLE), "{error}");
        for place in [&given, &libexec, &beside] {
            fs::write(place, "").unwrap();
            assert_eq!(choose(&shim, Some(&given)).unwrap(), *place);
        }
    }
}
