//! How a part of a store is kept apart from the rest of it. No I/O: the facts are arguments.
//!
//! There are two ways. Init can forbid to read the rest, by Landlock, which takes 2 microseconds a package. Or the
//! packages are mounted one by one in a tree that is built for the launch, which takes 50, and nothing else is there.

use std::path::{Path, PathBuf};

use agent_protocol::spec::MAX_READABLE;
use serde::Serialize;

use super::error::IsolationError;
use super::plan::{Mount, Origin, StoreView};

/// The first version of Landlock with which files can still be renamed and linked from one folder to another.
const FIRST_ABI: i64 = 2;

/// The packages of one environment and all that they refer to: names directly below a store, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Closure(Vec<String>);

impl Closure {
    /// From paths as `nix-store --query --requisites` prints them. Each has to be directly below `store`.
    pub fn new(store: &Path, paths: impl IntoIterator<Item = PathBuf>) -> Result<Closure, IsolationError> {
        let names: Result<Vec<String>, _> = paths.into_iter().map(|path| name_below(store, path)).collect();
        let mut names = names?;
        names.sort_unstable();
        names.dedup();
        if names.len() > MAX_READABLE {
            let count = names.len();
            return Err(IsolationError::ClosureTooLarge {
                store: store.to_owned(),
                count,
                most: MAX_READABLE,
            });
        }
        Ok(Closure(names))
    }

    /// Their names, in order.
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

/// `Path` would take `a/.` and `a//` for `a`, so the text counts.
fn name_below(store: &Path, path: PathBuf) -> Result<String, IsolationError> {
    let name = path
        .to_str()
        .and_then(|path| path.strip_prefix(store.to_str()?.trim_end_matches('/'))?.strip_prefix('/'));
    match name {
        Some(name)
            if !matches!(name, "" | "." | "..") && !name.contains(['/', '\0']) && name.len() <= 255 =>
        {
            Ok(name.to_owned())
        }
        _ => Err(IsolationError::NotInStore { store: store.to_owned(), path }),
    }
}

/// What decides how a closure is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// The kernel's version of Landlock, or 0.
    pub(super) landlock_abi: i64,
    /// Whether processes inside may mount in namespaces of their own, which Landlock would forbid.
    pub(super) nested: bool,
}

/// Leaves the closure to init where it can keep it, and returns its paths inside. Else there are none, and the mount stays
/// a tree.
pub(super) fn leave_to_init(mounts: &mut [Mount], facts: Facts) -> Vec<String> {
    try_to_leave(mounts, facts).unwrap_or_default()
}

fn try_to_leave(mounts: &mut [Mount], facts: Facts) -> Option<Vec<String>> {
    if facts.nested || facts.landlock_abi < FIRST_ABI {
        return None;
    }
    let index = mounts.iter().position(|mount| match mount {
        // Without any path init would not know that the rest is closed.
        Mount::Store { at, view: StoreView::Closure(closure), .. } => {
            !closure.names().is_empty() && !changes_above(at, mounts)
        }
        _ => false,
    })?;
    let Mount::Store { at, view, .. } = &mut mounts[index] else { return None };
    let StoreView::Closure(closure) = std::mem::replace(view, StoreView::Whole) else { return None };
    Some(closure.0.iter().map(|name| format!("{}/{name}", at.trim_end_matches('/'))).collect())
}

/// Whether the way to it leads through a folder in which more can be made, inside or outside: no rule would allow to
/// read that.
fn changes_above(at: &str, mounts: &[Mount]) -> bool {
    mounts.iter().any(|mount| match mount {
        Mount::Bind { at: above, origin: Origin::Caller, .. } | Mount::Tmpfs { at: above, .. } => {
            Path::new(at).starts_with(above)
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isolation::Access;

    const ABLE: Facts = Facts { landlock_abi: FIRST_ABI, nested: false };

    fn closure(names: &[&str]) -> Result<Closure, IsolationError> {
        Closure::new(Path::new("/nix/store"), names.iter().map(PathBuf::from))
    }

    fn mounts(at: &str) -> Vec<Mount> {
        let view = StoreView::Closure(closure(&["/nix/store/b", "/nix/store/a"]).unwrap());
        vec![
            Mount::given("/data/tmp", "/tmp", Access::ReadWrite),
            Mount::Store { source: "/nix/store".into(), at: at.to_owned(), view },
        ]
    }

    #[test]
    fn a_closure_is_sorted_and_holds_each_name_once() {
        let closure = closure(&["/nix/store/b-1", "/nix/store/a-1", "/nix/store/b-1"]).unwrap();
        assert_eq!(closure.names(), ["a-1", "b-1"]);
        let same = Closure::new(
            Path::new("/nix/store/"),
            closure.names().iter().map(|name| Path::new("/nix/store").join(name)),
        );
        assert_eq!(same.unwrap(), closure);
    }

    #[test]
    fn what_is_not_directly_below_the_store_is_refused_by_name() {
        for path in [
            "/nix/store",
            "/nix/store/",
            "/nix/store/.",
            "/nix/store/..",
            "/nix/store/../x",
            "/nix/store/a/b",
            "/nix/store/a/",
            "/nix/store/a/.",
            "/nix/store//a",
            "/nix/storea",
            "/etc/shadow",
            "a",
            "",
        ] {
            let error = closure(&["/nix/store/fine", path]).unwrap_err().to_string();
            assert_eq!(error, format!("`{path}` is not a path directly below the store /nix/store"));
        }
        let long = format!("/nix/store/{}", "a".repeat(256));
        assert!(closure(&[&long]).is_err());
    }

    #[test]
    fn a_closure_is_bounded() {
        let paths = |count| (0..count).map(|i| PathBuf::from(format!("/nix/store/{i}")));
        assert!(Closure::new(Path::new("/nix/store"), paths(MAX_READABLE)).is_ok());
        let error = Closure::new(Path::new("/nix/store"), paths(MAX_READABLE + 1)).unwrap_err().to_string();
        assert!(error.contains("16385") && error.contains("16384"), "{error}");
    }

    #[test]
    fn init_keeps_it_where_landlock_can() {
        let mut mounts = mounts("/nix/store");
        assert_eq!(leave_to_init(&mut mounts, ABLE), ["/nix/store/a", "/nix/store/b"]);
        assert!(matches!(&mounts[1], Mount::Store { view: StoreView::Whole, .. }));
    }

    /// The list that init gets says by being empty that there is nothing to keep.
    #[test]
    fn an_empty_closure_never_becomes_the_whole_store() {
        let mut mounts = mounts("/nix/store");
        let Mount::Store { view, .. } = &mut mounts[1] else { panic!() };
        *view = StoreView::Closure(Closure::default());
        let before = mounts.clone();
        assert!(leave_to_init(&mut mounts, ABLE).is_empty());
        assert_eq!(mounts, before);
    }

    #[test]
    fn it_stays_a_tree_where_landlock_is_missing_or_in_the_way() {
        let cases = [
            (Facts { landlock_abi: 0, ..ABLE }, "/nix/store"),
            (Facts { landlock_abi: FIRST_ABI - 1, ..ABLE }, "/nix/store"),
            (Facts { nested: true, ..ABLE }, "/nix/store"),
            (ABLE, "/tmp/home/nix/store"),
        ];
        for (facts, at) in cases {
            let mut mounts = mounts(at);
            let before = mounts.clone();
            assert!(leave_to_init(&mut mounts, facts).is_empty(), "{facts:?} {at}");
            assert_eq!(mounts, before);
        }
    }
}
