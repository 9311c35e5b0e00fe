//! What was asked for of the network, and what a layer makes of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::{Capabilities, IsolationError, Network};

/// Longest name of a network device in Linux.
const MAX_DEVICE_CHARS: usize = 15;

/// What was asked for of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NetworkChoice {
    /// What the layer does by itself: the host's, or one of its own behind the host's.
    #[default]
    Auto,
    /// This, and nothing else.
    Only(Network),
}

/// The kinds of networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkKind {
    /// See [`Network::None`].
    None,
    /// See [`Network::Nat`].
    Nat,
    /// See [`Network::Bridge`].
    Bridge,
    /// See [`Network::Host`].
    Host,
}

impl Network {
    /// Which kind it is.
    pub fn kind(&self) -> NetworkKind {
        match self {
            Self::None => NetworkKind::None,
            Self::Nat => NetworkKind::Nat,
            Self::Bridge(_) => NetworkKind::Bridge,
            Self::Host => NetworkKind::Host,
        }
    }
}

impl NetworkChoice {
    /// The network on a layer, or why it has no such one.
    pub fn on(&self, layer: &Capabilities) -> Result<Network, IsolationError> {
        match self {
            Self::Auto => Ok(match layer.networks.first() {
                Some(NetworkKind::Host) => Network::Host,
                Some(NetworkKind::Nat) => Network::Nat,
                Some(NetworkKind::None | NetworkKind::Bridge) | None => Network::None,
            }),
            Self::Only(network) if layer.networks.contains(&network.kind()) => Ok(network.clone()),
            Self::Only(network) => Err(IsolationError::NoSuchNetwork {
                layer: layer.name,
                asked: network.to_string(),
                can: layer.networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Whether nothing is reachable.
    pub fn is_none(&self) -> bool {
        *self == Self::Only(Network::None)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Host => f.write_str("host"),
            Self::Nat => f.write_str("nat"),
            Self::Bridge(name) => write!(f, "bridge={name}"),
        }
    }
}

impl fmt::Display for NetworkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Nat => "nat",
            Self::Bridge => "bridge=NAME",
            Self::Host => "host",
        })
    }
}

impl fmt::Display for NetworkChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Only(network) => network.fmt(f),
        }
    }
}

impl FromStr for NetworkChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "auto" => Self::Auto,
            "none" => Self::Only(Network::None),
            "host" => Self::Only(Network::Host),
            "nat" => Self::Only(Network::Nat),
            _ => match text.strip_prefix("bridge=") {
                Some(name) if is_device(name) => Self::Only(Network::Bridge(name.to_owned())),
                Some(_) => {
                    return Err(
                        "the name of a bridge has 1 to 15 letters, digits, `.`, `-` or `_`".to_owned()
                    );
                }
                None => return Err("write auto, host, none, nat or bridge=NAME".to_owned()),
            },
        })
    }
}

fn is_device(name: &str) -> bool {
    let plain = |char: char| char.is_ascii_alphanumeric() || ".-_".contains(char);
    (1..=MAX_DEVICE_CHARS).contains(&name.len()) && name.chars().all(plain) && ![".", ".."].contains(&name)
}

impl From<bool> for NetworkChoice {
    /// What it was before there was a choice.
    fn from(shared: bool) -> Self {
        if shared { Self::Auto } else { Self::Only(Network::None) }
    }
}

impl Serialize for NetworkChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NetworkChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Switch(bool),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Switch(shared) => Ok(shared.into()),
            Written::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_survives_a_round_trip_and_a_switch_of_earlier_versions_is_one() {
        for text in ["auto", "none", "host", "nat", "bridge=br0", "bridge=virbr-1.2_3"] {
            let choice: NetworkChoice = text.parse().unwrap();
            assert_eq!(choice.to_string(), text);
            let json = serde_json::to_string(&choice).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<NetworkChoice>(&json).unwrap(), choice);
        }
        assert_eq!(serde_json::from_str::<NetworkChoice>("true").unwrap(), NetworkChoice::Auto);
        assert!(serde_json::from_str::<NetworkChoice>("false").unwrap().is_none());
        for wrong in ["", "yes", "bridge", "bridge=", "bridge=a b", "bridge=../x", "bridge=0123456789abcdef"]
        {
            assert!(wrong.parse::<NetworkChoice>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_layer_says_what_it_can() {
        let layer = &crate::isolation::bwrap::CAPABILITIES;
        assert_eq!(NetworkChoice::Auto.on(layer).unwrap(), Network::Host);
        assert_eq!(NetworkChoice::Only(Network::None).on(layer).unwrap(), Network::None);
        let machine = &crate::isolation::microvm::CAPABILITIES;
        assert_eq!(NetworkChoice::Auto.on(machine).unwrap(), Network::Nat);
        let bridge = NetworkChoice::Only(Network::Bridge("br0".to_owned()));
        assert_eq!(bridge.on(machine).unwrap().to_string(), "bridge=br0");
        let error = bridge.on(layer).unwrap_err();
        assert_eq!(error.kind(), crate::isolation::ErrorKind::Usage);
        assert_eq!(error.to_string(), "`--isolation bwrap` has no network `bridge=br0`");
        assert_eq!(error.hint().unwrap(), "it has host, none");
    }
}
