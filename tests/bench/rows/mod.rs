//! One file for each kind of row.

use super::{
    stats::Quantile,
    table::{Against, Row, Target},
    tools::Workshop,
};

mod clones;
mod commands;
mod crowd;
mod layers;
mod machines;
mod orphans;
mod pulls;
mod rest;
mod screens;
mod serving;
mod snapshots;
mod starts;
mod stores;
mod streams;
mod syncs;

/// What a row needs to know.
pub(crate) struct Setting<'a> {
    pub(crate) workshop: &'a Workshop,
    /// Rounds, if somebody chose their number.
    pub(crate) rounds: Option<usize>,
}

impl Setting<'_> {
    fn rounds(&self, usual: usize) -> usize {
        self.rounds.unwrap_or(usual)
    }
}

type Measure = fn(&Setting<'_>) -> anyhow::Result<Vec<Row>>;

/// Every kind of row, under the name that `--only` takes.
pub(crate) const ROWS: [(&str, Measure); 26] = [
    ("exec", commands::whole_client),
    ("exec-open", commands::open_client),
    ("start", starts::start),
    ("start-nix", starts::start_nix),
    ("start-oci", layers::start_oci),
    ("start-microvm", machines::start),
    ("init-share", starts::init_share),
    ("init-guest", machines::init_share),
    ("vsock", machines::commands),
    ("stdout", streams::stdout),
    ("pty", screens::flood),
    ("echo", screens::echo),
    ("paint", screens::paint),
    ("orphans", orphans::orphans),
    ("rest", rest::rest),
    ("rest-layers", layers::rest),
    ("hundred", crowd::hundred),
    ("restart", starts::restart),
    ("clone", clones::clones),
    ("pull", pulls::one_commit),
    ("snapshot", snapshots::everything),
    ("sync", syncs::one_commit),
    ("serve", serving::upload_pack),
    ("pull-everything", pulls::everything),
    ("store", stores::start),
    ("store-use", stores::using),
];

fn against(ours: &'static str, peer: &'static str, limit: f64) -> Target {
    Target { ours, against: Against::Peer(peer), at: Quantile::MEDIAN, limit }
}

fn beyond(ours: &'static str, peer: &'static str, limit: f64) -> Target {
    Target { ours, against: Against::Beyond(peer), at: Quantile::MEDIAN, limit }
}

fn absolute(ours: &'static str, limit: f64) -> Target {
    Target { ours, against: Against::Nobody, at: Quantile::MEDIAN, limit }
}
