//! The Nix expression of an environment: pinned, readable, and nothing but data where names come from outside.
//!
//! It uses no syntax and no function that Nix 2.4 does not have, and nothing of the person's own settings: neither
//! NIX_PATH nor their nixpkgs configuration. Names of packages stand in it as lists of strings, which are
//! looked up one attribute at a time, so that no name can be read as anything but a name.

use std::fmt::Write as _;

use super::{
    package::Package,
    pin::Nixpkgs,
    spec::{CanonicalSpec, Unfree},
};

/// What our own errors begin with; a list of names in JSON follows.
pub(super) const UNKNOWN: &str = "agent-shim: there are no packages ";
/// The same for what is there and is no package, such as `python312Packages`.
pub(super) const NOT_PACKAGES: &str = "agent-shim: these are not packages ";
/// What is said where the folder or the flake holds something else.
pub(super) const NOT_NIXPKGS: &str = "agent-shim: this is not nixpkgs";

/// The folder of an environment in which the parts are that every sandbox needs, whatever its packages.
pub const BASE: &str = ".agent-shim";

/// The expression that builds an environment.
pub fn expression(spec: &CanonicalSpec) -> String {
    let mut text = format!("# Environment {} of agent-shim. For Nix 2.4 and later.\nlet\n", spec.id());
    text.push_str(&package_set(spec));
    // Writing into a string never fails.
    let _always = writeln!(
        text,
        r#"
  # Packages as paths of attributes. Where two have a file of the same name, the one of lower rank wins.
  wanted = [
{}  ];
  find = builtins.foldl' (found: name: if found ? ${{name}} then found.${{name}} else null) pkgs;
  unknown = builtins.filter (want: find want.path == null) wanted;
  others = builtins.filter (want: (find want.path).type or null != "derivation") wanted;
  names = list: builtins.toJSON (map (want: want.path) list);

  ranked = want: let package = find want.path; in package // {{
    meta = (package.meta or {{ }}) // {{ priority = (package.meta.priority or 5) + 1000 * want.rank; }};
  }};
in
if unknown != [ ] then throw "{UNKNOWN}${{names unknown}}"
else if others != [ ] then throw "{NOT_PACKAGES}${{names others}}"
else pkgs.buildEnv {{
  name = "agent-shim-environment";
  paths = map ranked wanted;
  # What every sandbox needs, whatever its packages; not on its PATH.
  postBuild = ''
    mkdir $out/{BASE}
    ln -s ${{pkgs.bash}}/bin/bash $out/{BASE}/bash
    ln -s ${{pkgs.bash}}/bin/bash $out/{BASE}/sh
    ln -s ${{pkgs.coreutils}}/bin/env $out/{BASE}/env
    ln -s ${{pkgs.cacert}}/etc/ssl/certs/ca-bundle.crt $out/{BASE}/ca-bundle.crt
    ln -s ${{pkgs.tzdata}}/share/zoneinfo $out/{BASE}/zoneinfo
  '';
}}"#,
        wanted(spec)
    );
    text
}

/// An expression for the names beside the ones that were not found: for each of these paths, how many of its attributes
/// there are, and the names in the last set on the way.
pub fn neighbours(spec: &CanonicalSpec, paths: &[Vec<String>]) -> String {
    let lists: String = paths.iter().map(|path| format!("  {}\n", list(path))).collect();
    format!(
        r"let
{}
  beside = found: path: depth:
    let name = builtins.head path; in
    if path != [ ] && builtins.isAttrs (found.${{name}} or null)
    then beside found.${{name}} (builtins.tail path) (depth + 1)
    else {{ inherit depth; names = builtins.attrNames found; }};
in
map (path: beside pkgs path 0) [
{lists}]
",
        package_set(spec)
    )
}

/// Where the packages come from, as `pkgs`.
fn package_set(spec: &CanonicalSpec) -> String {
    let source = match &spec.nixpkgs {
        Nixpkgs::Commit { repository, commit, hash } => {
            let url = string(&format!("https://github.com/{repository}/archive/{commit}.tar.gz"));
            let hash =
                hash.as_ref().map(|hash| format!("    sha256 = {};\n", string(hash))).unwrap_or_default();
            format!("builtins.fetchTarball {{\n    url = {url};\n{hash}  }}")
        }
        // A path that is put together is one whatever characters it has, and is read where it lies.
        Nixpkgs::Path(path) => format!("/. + {}", string(&path.to_string_lossy())),
        Nixpkgs::Flake(reference) => format!("(builtins.getFlake {}).outPath", string(reference)),
    };
    let config = match &spec.unfree {
        Unfree::All => "allowUnfree = true;".to_owned(),
        Unfree::Named(names) => format!(
            "allowUnfreePredicate = package:\n          \
             builtins.elem (package.pname or (builtins.parseDrvName package.name).name) {};",
            list(names)
        ),
    };
    format!(
        r#"  nixpkgs = {source};
  make = import nixpkgs;
  pkgs =
    if builtins.isFunction make && builtins.functionArgs make ? config && builtins.functionArgs make ? overlays
    then make {{
      config = {{
        {config}
      }};
      overlays = [ ];
    }}
    else throw "{NOT_NIXPKGS}";
"#
    )
}

fn wanted(spec: &CanonicalSpec) -> String {
    let line = |(package, rank): (&Package, usize)| {
        format!("    {{ rank = {rank}; path = {}; }}\n", list(package.attributes()))
    };
    spec.ranked().into_iter().map(line).collect()
}

fn list(strings: &[impl AsRef<str>]) -> String {
    let strings: String = strings.iter().map(|text| format!("{} ", string(text.as_ref()))).collect();
    format!("[ {strings}]")
}

/// A string of Nix. A quote would end it, a backslash begins an escape, and `${` an expression; nothing else means
/// anything in one.
fn string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' | '$' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            // Nix has no such character in a string, and nothing that leads here lets one pass.
            '\0' => {}
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::spec::EnvSpec;
    use proptest::prelude::*;

    fn spec(packages: &[&str]) -> CanonicalSpec {
        let packages = packages.iter().map(|name| (*name).to_owned()).collect();
        EnvSpec { packages, ..EnvSpec::default() }.canonical().unwrap()
    }

    #[test]
    fn it_reads_as_a_person_would_write_it() {
        let text = expression(&spec(&["jq", "python312Packages.pip"]));
        for line in [
            "  nixpkgs = builtins.fetchTarball {\n    url = \"https://github.com/NixOS/nixpkgs/archive/",
            "\n    sha256 = \"sha256-",
            "    { rank = 0; path = [ \"jq\" ]; }\n",
            "    { rank = 0; path = [ \"python312Packages\" \"pip\" ]; }\n",
            "allowUnfreePredicate = package:\n",
            "builtins.elem (package.pname or (builtins.parseDrvName package.name).name) [ ];",
            "    mkdir $out/.agent-shim\n",
        ] {
            assert!(text.contains(line), "{line}\n---\n{text}");
        }
    }

    #[test]
    fn each_pin_is_spelt_its_way() {
        let of = |nixpkgs| expression(&CanonicalSpec { nixpkgs, ..spec(&["jq"]) });
        let path = of(Nixpkgs::Path("/src/my nixpkgs".into()));
        assert!(path.contains("  nixpkgs = /. + \"/src/my nixpkgs\";\n"), "{path}");
        let flake = of(Nixpkgs::Flake("github:NixOS/nixpkgs/x".to_owned()));
        assert!(
            flake.contains("nixpkgs = (builtins.getFlake \"github:NixOS/nixpkgs/x\").outPath;"),
            "{flake}"
        );
    }

    #[test]
    fn unfree_is_all_or_by_name() {
        let all = expression(&CanonicalSpec { unfree: Unfree::All, ..spec(&["jq"]) });
        assert!(all.contains("allowUnfree = true;") && !all.contains("Predicate"), "{all}");
        let named = EnvSpec { preset: Some("claude".to_owned()), ..EnvSpec::default() };
        assert!(expression(&named.canonical().unwrap()).contains("[ \"claude-code\" ];"));
    }

    #[test]
    fn a_name_stays_a_name() {
        let text = expression(&spec(&[r#""a\"; builtins.abort \"b""#, r#""${builtins.abort \"c\"}""#]));
        assert!(text.contains(r#"path = [ "a\"; builtins.abort \"b" ];"#), "{text}");
        assert!(text.contains(r#"path = [ "\${builtins.abort \"c\"}" ];"#), "{text}");
    }

    /// Reads a string as Nix does, and returns what follows it.
    fn read_back(text: &str) -> (String, &str) {
        let mut value = String::new();
        let mut chars = text.char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => return (value, &text[at + 1..]),
                '\\' => match chars.next().unwrap().1 {
                    'n' => value.push('\n'),
                    'r' => value.push('\r'),
                    't' => value.push('\t'),
                    c => value.push(c),
                },
                '$' if chars.peek().is_some_and(|(_, c)| *c == '{') => panic!("an expression in {text}"),
                c => value.push(c),
            }
        }
        panic!("no end in {text}");
    }

    proptest! {
        #[test]
        fn every_string_is_one_string(text in "[^\\x00]{0,20}|[\"\\\\${}\n]{0,12}") {
            let quoted = string(&text);
            prop_assert_eq!(read_back(&quoted), (text, ""));
        }

        #[test]
        fn no_name_changes_the_shape(name in "[^\\p{Cc}]{1,20}") {
            let quoted = format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""));
            let text = expression(&spec(&[&quoted]));
            let (_, rest) = text.split_once("path = [ ").unwrap();
            let (value, rest) = read_back(rest);
            prop_assert_eq!(value, name);
            let is_whole = rest.starts_with(" ]; }\n");
            prop_assert!(is_whole);
        }
    }
}
