//! What the tests of this module have in common.

use std::path::Path;

use super::document::{Document, Source};

/// A project's file with that text.
pub(super) fn project(text: &str) -> Document<'_> {
    let source = Source::Project(Path::new("/p/agent-shim.toml").into());
    Document { source, text, base: Path::new("/p"), home: Some(Path::new("/home/me")) }
}

/// The person's file with that text.
pub(super) fn user(text: &str) -> Document<'_> {
    let source = Source::User(Path::new("/c/config.toml").into());
    Document { source, text, base: Path::new("/c"), home: Some(Path::new("/home/me")) }
}
