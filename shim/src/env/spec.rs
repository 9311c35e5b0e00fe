//! What an environment consists of, and the name that follows from it.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    catalog::{self, UnknownGroup},
    package::{Package, PackageError},
    pin::Nixpkgs,
};

/// Most packages of one environment. A closure grows with them, and so does everything that looks at it.
pub const MAX_PACKAGES: usize = 1000;

/// The first line of what is hashed. To be changed with the meaning of an expression, so that nothing old is
/// mistaken for what would be built today.
const FORMAT: &str = "agent-shim environment 1";

/// An environment as it was asked for. It is kept in the record of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvSpec {
    /// What the packages are added to; nothing where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// Groups of packages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<String>,
    /// Single packages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
    /// Where they come from.
    pub nixpkgs: Nixpkgs,
    /// Whether packages under an unfree licence are allowed, whoever asked for them.
    #[serde(default)]
    pub unfree: bool,
}

/// The same with everything resolved, in the one order and spelling there is for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalSpec {
    /// Every package, and how much it was meant.
    pub packages: BTreeMap<Package, Rank>,
    /// Where they come from.
    pub nixpkgs: Nixpkgs,
    /// Which unfree packages are allowed.
    pub unfree: Unfree,
}

/// How much a package was meant: where two have a file of the same name, the one that was named more directly wins.
/// `--nix-packages nodejs_22` beside a preset with nodejs_24 is a wish for 22.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// By its own name.
    Named = 0,
    /// With a set.
    Set = 1,
    /// With a preset.
    Preset = 2,
}

/// Which packages under an unfree licence are allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfree {
    /// These, by the name nixpkgs gives them.
    Named(Vec<String>),
    /// All.
    All,
}

/// Why a spec means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No such preset or set.
    #[error(transparent)]
    Group(#[from] UnknownGroup),
    /// Not a package's name.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// There is nothing in it.
    #[error("the environment has no packages")]
    Empty,
    /// There is too much in it.
    #[error("the environment has {0} packages; {MAX_PACKAGES} is the most")]
    TooMany(usize),
}

impl SpecError {
    /// What a person can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Group(group) => Some(group.hint()),
            Self::Package(_) => {
                Some("packages are attributes of nixpkgs, such as jq or python312Packages.pip".to_owned())
            }
            Self::Empty => Some("name a package, a set or a preset".to_owned()),
            Self::TooMany(_) => None,
        }
    }
}

impl EnvSpec {
    /// Resolves everything.
    pub fn canonical(&self) -> Result<CanonicalSpec, SpecError> {
        let mut packages = BTreeMap::new();
        let mut unfree = Vec::new();
        let mut add = |package: Package, rank: Rank| {
            packages
                .entry(package)
                .and_modify(|before: &mut Rank| *before = (*before).min(rank))
                .or_insert(rank);
        };
        for text in &self.packages {
            for package in Package::list(text)? {
                add(package, Rank::Named);
            }
        }
        let sets = self.sets.iter().flat_map(|text| words(text)).map(|name| (catalog::set(name), Rank::Set));
        let preset = self.preset.iter().map(|name| (catalog::preset(name), Rank::Preset));
        for (group, rank) in sets.chain(preset) {
            let group = group?;
            unfree.extend(group.unfree.iter().map(|name| (*name).to_owned()));
            for name in group.packages {
                add(name.parse()?, rank);
            }
        }
        match packages.len() {
            0 => return Err(SpecError::Empty),
            count if count > MAX_PACKAGES => return Err(SpecError::TooMany(count)),
            _ => {}
        }
        unfree.sort();
        unfree.dedup();
        let unfree = if self.unfree { Unfree::All } else { Unfree::Named(unfree) };
        Ok(CanonicalSpec { packages, nixpkgs: self.nixpkgs.canonical(), unfree })
    }

    /// Its name. The work of microseconds.
    pub fn id(&self) -> Result<EnvId, SpecError> {
        self.canonical().map(|spec| spec.id())
    }
}

/// Names between commas or white space.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty())
}

impl CanonicalSpec {
    /// The name that every spelling of this environment has.
    pub fn id(&self) -> EnvId {
        EnvId(base32(&Sha256::digest(self.text())))
    }

    /// What is hashed. One fact a line, and no fact can hold a line's end: names have no control characters.
    fn text(&self) -> String {
        let mut text = format!("{FORMAT}\nnixpkgs {}\n", self.nixpkgs);
        match &self.unfree {
            Unfree::All => text.push_str("unfree\n"),
            Unfree::Named(names) => names.iter().for_each(|name| text.extend(["unfree ", name, "\n"])),
        }
        for (package, rank) in self.ranked() {
            text.extend(["package ", &rank.to_string(), " ", &package.to_string(), "\n"]);
        }
        text
    }

    /// Packages with ranks that begin at 0 and have no gaps: only their order means something.
    pub fn ranked(&self) -> Vec<(&Package, usize)> {
        let mut ranks: Vec<Rank> = self.packages.values().copied().collect();
        ranks.sort();
        ranks.dedup();
        let place = |rank: &Rank| ranks.iter().position(|known| known == rank).unwrap_or(0);
        self.packages.iter().map(|(package, rank)| (package, place(rank))).collect()
    }
}

/// The name of an environment: the same for every spelling of the same packages of the same nixpkgs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EnvId(String);

/// The text is no name of an environment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not the id of an environment", .0.escape_debug())]
pub struct EnvIdError(String);

impl EnvId {
    /// Letters and digits in a name: 130 bits, so that nobody makes two environments of one name.
    pub const LEN: usize = 26;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EnvId {
    type Err = EnvIdError;

    fn from_str(text: &str) -> Result<Self, EnvIdError> {
        let valid = text.len() == Self::LEN && text.bytes().all(|byte| ALPHABET.contains(&byte));
        if valid { Ok(Self(text.to_owned())) } else { Err(EnvIdError(text.chars().take(64).collect())) }
    }
}

impl fmt::Display for EnvId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for EnvId {
    type Error = EnvIdError;

    fn try_from(text: String) -> Result<Self, EnvIdError> {
        text.parse()
    }
}

impl From<EnvId> for String {
    fn from(id: EnvId) -> Self {
        id.0
    }
}

/// RFC 4648, in lowercase.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

fn base32(bytes: &[u8]) -> String {
    let bit = |index: usize| usize::from(bytes[index / 8] >> (7 - index % 8) & 1);
    let digit = |place: usize| (0..5).fold(0, |value, offset| value << 1 | bit(place * 5 + offset));
    (0..EnvId::LEN).map(|place| char::from(ALPHABET[digit(place)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(preset: Option<&str>, sets: &[&str], packages: &[&str]) -> EnvSpec {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        EnvSpec {
            preset: preset.map(str::to_owned),
            sets: owned(sets),
            packages: owned(packages),
            ..EnvSpec::default()
        }
    }

    fn id(packages: &[&str]) -> EnvId {
        spec(None, &[], packages).id().unwrap()
    }

    #[test]
    fn the_id_of_a_known_environment_is_frozen() {
        // A change here rebuilds every environment there is, and is made on purpose: see FORMAT.
        assert_eq!(id(&["jq", "fd"]).as_str(), "as5qrtyhbzm57f3zlb24yhelan");
        let text = spec(None, &[], &["jq", "fd"]).canonical().unwrap().text();
        let expected = format!("{FORMAT}\nnixpkgs {}\npackage 0 fd\npackage 0 jq\n", Nixpkgs::default());
        assert_eq!(text, expected);
    }

    #[test]
    fn spelling_order_and_duplicates_do_not_matter() {
        let expected = id(&["fd", "jq", "python312Packages.pip"]);
        for packages in [
            &["jq", "fd", "python312Packages.pip"][..],
            &["jq,fd", "python312Packages.pip"],
            &[" jq ,, nixpkgs#fd,", "pkgs.python312Packages.pip", "jq"],
            &["python312Packages.\"pip\" fd jq"],
        ] {
            assert_eq!(id(packages), expected, "{packages:?}");
        }
    }

    #[test]
    fn groups_are_what_they_consist_of() {
        let names = catalog::set("go").unwrap().packages;
        assert_eq!(spec(None, &["go"], &[]).id().unwrap(), id(names));
        assert_eq!(spec(None, &[" go,GO ,"], &[]).id(), spec(None, &["go"], &[]).id());
    }

    #[test]
    fn what_matters_changes_the_id() {
        let base = spec(Some("claude"), &[], &[]);
        let mut others = vec![
            spec(Some("codex"), &[], &[]),
            spec(None, &[], &["jq"]),
            spec(Some("claude"), &["go"], &[]),
            EnvSpec { unfree: true, ..base.clone() },
            EnvSpec { nixpkgs: Nixpkgs::Path("/x".into()), ..base.clone() },
            EnvSpec { nixpkgs: Nixpkgs::Flake("nixpkgs".into()), ..base.clone() },
            base,
        ];
        let mut ids: Vec<EnvId> = others.drain(..).map(|spec| spec.id().unwrap()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 7);
    }

    #[test]
    fn a_preset_allows_its_own_unfree_package_and_no_other() {
        let unfree = |spec: EnvSpec| spec.canonical().unwrap().unfree;
        assert_eq!(unfree(spec(Some("claude"), &[], &[])), Unfree::Named(vec!["claude-code".to_owned()]));
        assert_eq!(unfree(spec(None, &["go"], &["claude-code"])), Unfree::Named(Vec::new()));
        assert_eq!(unfree(EnvSpec { unfree: true, ..spec(None, &["go"], &[]) }), Unfree::All);
    }

    #[test]
    fn what_was_named_more_directly_ranks_first() {
        let canonical = spec(Some("claude"), &["nodejs"], &["jq", "nodejs_22"]).canonical().unwrap();
        let rank = |name: &str| canonical.packages[&name.parse::<Package>().unwrap()];
        assert_eq!(rank("jq"), Rank::Named);
        assert_eq!(rank("nodejs_22"), Rank::Named);
        assert_eq!(rank("nodejs_24"), Rank::Set);
        assert_eq!(rank("git"), Rank::Preset);
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(spec(None, &[], &[" , "]).id(), Err(SpecError::Empty));
        assert!(matches!(spec(None, &["nodjs"], &[]).id(), Err(SpecError::Group(_))));
        assert!(matches!(spec(Some("x"), &[], &[]).id(), Err(SpecError::Group(_))));
        assert!(matches!(spec(None, &[], &["a;b"]).id(), Err(SpecError::Package(_))));
        let many: Vec<String> = (0..=MAX_PACKAGES).map(|number| format!("p{number}")).collect();
        let many = EnvSpec { packages: many, ..EnvSpec::default() };
        assert_eq!(many.id(), Err(SpecError::TooMany(MAX_PACKAGES + 1)));
    }

    #[test]
    fn it_survives_a_record_and_an_unknown_field_does_not() {
        let spec = spec(Some("claude"), &["go"], &["jq"]);
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<EnvSpec>(&json).unwrap(), spec);
        assert!(serde_json::from_str::<EnvSpec>(&json.replace("\"sets\"", "\"set\"")).is_err());
    }

    #[test]
    fn only_what_we_made_is_an_id() {
        let id = id(&["jq"]);
        assert_eq!(id.as_str().parse::<EnvId>().unwrap(), id);
        for text in
            ["", "..", "../../../../etc/passwd....", &"A".repeat(26), &"a".repeat(27), &"1".repeat(26)]
        {
            assert!(text.parse::<EnvId>().is_err(), "{text}");
        }
    }

    #[test]
    fn base_32_is_the_one_of_the_rfc() {
        let mut bytes = b"foobar".to_vec();
        bytes.resize(32, 0);
        assert!(base32(&bytes).starts_with("mzxw6ytboi"));
    }

    fn spelled() -> impl Strategy<Value = (Vec<String>, Vec<String>)> {
        let name = prop::sample::select(vec!["jq", "fd", "git", "a.b", "c.\"d.e\"", "nodejs_24"]);
        prop::collection::vec(name, 1..6).prop_flat_map(|names| {
            let plain: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let dressed = prop::collection::vec((0usize..4, 0usize..4, any::<bool>()), plain.len());
            let order = Just(plain.clone()).prop_shuffle();
            (Just(plain), order, dressed).prop_map(|(plain, order, dressed)| {
                let mut out = Vec::new();
                for (name, (prefix, space, twice)) in order.iter().zip(dressed) {
                    let prefix = ["", "pkgs.", "nixpkgs#", " nixpkgs."][prefix];
                    let space = ["", " ", ",", "\n ,,"][space];
                    out.push(format!("{space}{prefix}{name}{space}"));
                    if twice {
                        out.push(name.clone());
                    }
                }
                (plain, out)
            })
        })
    }

    proptest! {
        #[test]
        fn no_spelling_changes_the_id((plain, dressed) in spelled()) {
            let of = |packages: Vec<String>| EnvSpec { packages, ..EnvSpec::default() }.id().unwrap();
            let joined = vec![dressed.join(",")];
            let expected = of(plain);
            prop_assert_eq!(&of(dressed), &expected);
            prop_assert_eq!(&of(joined), &expected);
        }
    }
}
