//! Where init's binary is on this host.

use std::{
    env, io,
    path::{Path, PathBuf},
};

use crate::programs::is_program;

/// Names init's binary where it is neither beside the shim nor in `../libexec/agent-shim`.
pub(crate) const INIT_VARIABLE: &str = "AGENT_SHIM_INIT";

const INIT: &str = "agent-init";

const GIT: &str = "agent-git";

/// Init's binary, with no symbolic link in its path.
pub(crate) fn find() -> io::Result<PathBuf> {
    // /proc/self/exe has no symbolic links in it.
    let shim = env::current_exe()?;
    let given = env::var_os(INIT_VARIABLE).map(PathBuf::from).filter(|given| !given.as_os_str().is_empty());
    choose(&shim, given.as_deref())
}

/// What the person names comes first, and nothing stands in for it: another init than the one asked for would be a
/// surprise. Then one beside the shim: it was built with it.
pub(crate) fn choose(shim: &Path, given: Option<&Path>) -> io::Result<PathBuf> {
    if let Some(given) = given {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{INIT_VARIABLE} names {}: {error}", given.display()))
        };
        // Who reads it next, the monitor, is in another folder.
        if !given.is_absolute() {
            return Err(named(io::Error::other("it is not an absolute path")));
        }
        let found = given.canonicalize().map_err(named)?;
        let is_one = is_program(&found);
        return if is_one { Ok(found) } else { Err(named(io::Error::other("it cannot be executed"))) };
    }
    let folder = shim.parent().unwrap_or(Path::new("/"));
    let places = [folder.join(INIT), folder.join("../libexec/agent-shim").join(INIT)];
    let found = places.iter().filter(|path| is_program(path)).find_map(|path| path.canonicalize().ok());
    found.ok_or_else(|| {
        let looked = places.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" nor ");
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("it is neither {looked}, and {INIT_VARIABLE} is not set"),
        )
    })
}

/// The binary that serves git inside; it comes with init.
pub(crate) fn git_beside(init: &Path) -> io::Result<PathBuf> {
    git_of(&env::current_exe()?, init)
}

/// The same, for that shim.
pub(crate) fn git_of(shim: &Path, init: &Path) -> io::Result<PathBuf> {
    let folder = shim.parent().unwrap_or(Path::new("/"));
    // Another init than ours was asked for: what serves git need not be beside it.
    let places = [init.with_file_name(GIT), folder.join(GIT), folder.join("../libexec/agent-shim").join(GIT)];
    let found = places.iter().filter(|path| is_program(path)).find_map(|path| path.canonicalize().ok());
    found.ok_or_else(|| {
        let looked = places[0].display();
        io::Error::new(io::ErrorKind::NotFound, format!("{GIT} comes with it, and is not at {looked}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::TempDir;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn program(path: &Path) {
        fs::write(path, "").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn the_one_that_is_named_comes_first_and_then_the_one_beside_the_shim() {
        let temp = TempDir::new();
        let root = temp.path().canonicalize().unwrap();
        let shim = root.join("bin/agent-shim");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::create_dir_all(root.join("libexec/agent-shim")).unwrap();
        let given = root.join("given");
        let [beside, libexec] =
            ["bin/agent-init", "libexec/agent-shim/agent-init"].map(|path| root.join(path));

        let error = choose(&shim, None).unwrap_err().to_string();
        assert!(error.contains("agent-init") && error.contains(INIT_VARIABLE), "{error}");
        for place in [&libexec, &beside] {
            program(place);
            assert_eq!(choose(&shim, None).unwrap(), *place);
        }
        // Its git is beside it, or beside the shim where another init was named.
        let error = git_of(&shim, &beside).unwrap_err().to_string();
        assert!(error.contains("agent-git comes with it"), "{error}");
        for place in
            ["libexec/agent-shim/agent-git", "bin/agent-git", "agent-git"].map(|path| root.join(path))
        {
            program(&place);
            let init = if place.parent() == Some(&root) { &given } else { &beside };
            assert_eq!(git_of(&shim, init).unwrap(), place);
        }
        // Nothing stands in for what was asked for.
        let error = choose(&shim, Some(&given)).unwrap_err().to_string();
        assert!(
            error.contains(&format!("AGENT_SHIM_INIT names {}: No such file", given.display())),
            "{error}"
        );
        let error = choose(&shim, Some(&root)).unwrap_err().to_string();
        assert!(error.contains("it cannot be executed"), "{error}");
        let error = choose(&shim, Some(Path::new("given"))).unwrap_err().to_string();
        assert!(error.contains("not an absolute path"), "{error}");
        fs::write(&given, "").unwrap();
        assert!(choose(&shim, Some(&given)).unwrap_err().to_string().contains("cannot be executed"));
        program(&given);
        assert_eq!(choose(&shim, Some(&given)).unwrap(), given);
    }
}
