//! What the configuration says of networks: Docker's keys of `daemon.json`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use robot_env_config::Configuration;
use robot_env_diag::{Result, Within};
use robot_env_network::plan::{Driver, Range};
use robot_env_network::pool;
use robot_env_network::subnet::Subnet;
use robot_env_spec::DEFAULT_NETWORK;

use super::record::NetworkRecord;
use crate::engine::Engine;
use crate::rootless::once;

/// How networks are made where their users say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkDefaults {
    /// `default-address-pools`: ranges and the size of a cut; none: the engine's own.
    pub pools: Vec<(Subnet, u8)>,
    /// `default-network-opts` of bridges.
    pub options: BTreeMap<String, String>,
    /// `bip`: the default bridge's address and subnet.
    pub address: Option<(IpAddr, Subnet)>,
    /// `bip6`
    pub address_v6: Option<(IpAddr, Subnet)>,
    /// `fixed-cidr`: where the default bridge's containers have their addresses.
    pub pool: Option<Subnet>,
    /// `fixed-cidr-v6`
    pub pool_v6: Option<Subnet>,
    /// `ipv6`: addresses of IPv6 on the default bridge.
    pub ipv6: Option<bool>,
    /// `mtu` of the default bridge.
    pub mtu: Option<u32>,
    /// `icc`: whether its containers reach each other.
    pub connected: Option<bool>,
    /// `ip-masq`
    pub masquerade: Option<bool>,
}

impl NetworkDefaults {
    /// Those of a configuration, whose values have been checked by their shapes.
    pub fn of(configuration: &Configuration) -> NetworkDefaults {
        let cidr = |key: &str| -> Option<(IpAddr, Subnet)> {
            let (address, prefix) = configuration.text(key)?.split_once('/')?;
            let address: IpAddr = address.parse().ok()?;
            Some((address, Subnet::containing(address, prefix.parse().ok()?)?))
        };
        let pools = configuration.pools();
        NetworkDefaults {
            pools: pools.into_iter().filter_map(|(base, size)| Some((base.parse().ok()?, size))).collect(),
            options: configuration.options_of_networks("bridge").into_iter().collect(),
            address: cidr("bip"),
            address_v6: cidr("bip6"),
            pool: cidr("fixed-cidr").map(|(_, subnet)| subnet),
            pool_v6: cidr("fixed-cidr-v6").map(|(_, subnet)| subnet),
            ipv6: configuration.truth("ipv6"),
            mtu: configuration.number("mtu").and_then(|mtu| u32::try_from(mtu).ok()).filter(|mtu| *mtu > 0),
            connected: configuration.truth("icc"),
            masquerade: configuration.truth("ip-masq"),
        }
    }

    /// Whether anything is said of the default bridge.
    pub fn speak_of_the_bridge(&self) -> bool {
        let rest =
            NetworkDefaults { pools: self.pools.clone(), options: self.options.clone(), ..Self::default() };
        *self != rest
    }

    /// The pools that subnets are cut from.
    pub(super) fn pools(&self) -> Vec<(Subnet, u8)> {
        let own: Vec<_> = self.pools.iter().copied().filter(|(pool, _)| !pool.is_v6()).collect();
        if own.is_empty() { pool::default_pools() } else { own }
    }

    /// A range of IPv6.
    pub(super) fn choose_v6(&self, occupied: &[Subnet]) -> Result<Subnet> {
        let own: Vec<_> = self.pools.iter().copied().filter(|(pool, _)| pool.is_v6()).collect();
        if own.is_empty() { pool::choose_v6(occupied) } else { pool::choose(&own, occupied) }
    }
}

impl Engine {
    /// The same engine with these defaults of networks.
    #[must_use]
    pub fn with_network_defaults(mut self, defaults: NetworkDefaults) -> Engine {
        self.network_defaults = defaults;
        self
    }

    /// [`Engine::follow_configuration`] where the configuration has changed since, or the last look found
    /// containers in the way. What is to be heard is said once.
    ///
    /// # Errors
    /// The same.
    pub fn follow_new_configuration(&self) -> Result<Option<String>> {
        let fingerprint = format!("{}\n{:?}\n", self.paths.root().display(), self.network_defaults);
        let marker = self.paths.run_root().join("networks.configured");
        if std::fs::read_to_string(&marker).is_ok_and(|known| known == fingerprint) {
            return Ok(None);
        }
        let (said, settled) = self.follow()?;
        if settled {
            // Without it the next command looks again.
            let _ = std::fs::write(&marker, fingerprint);
        }
        Ok(said.filter(|said| once::first(self.paths.run_root(), "networks", said)))
    }

    /// Makes the default bridge what the configuration says. While a container is in it, it stays as it
    /// is: what the user should hear then. A range that the host has already, as where it is the one of
    /// Docker's own bridge, is not taken either.
    pub fn follow_configuration(&self) -> Result<Option<String>> {
        self.follow().map(|(said, _)| said)
    }

    /// What is to be heard, and whether nothing is left to be done.
    fn follow(&self) -> Result<(Option<String>, bool)> {
        let record = self.network(DEFAULT_NETWORK)?;
        let (wanted, said) = self.configured_bridge(&record)?;
        if wanted == record {
            return Ok((said, true));
        }
        wanted
            .network
            .check()
            .within(|| "cannot use what the configuration says of the network bridge".into())?;
        let networks = self.lock_networks()?;
        let id = &record.network.id;
        let in_use = networks.in_place(|networks| {
            networks.forget_dead(id)?;
            if !networks.live(id)?.endpoints.is_empty() {
                return Ok(true);
            }
            networks.retire(&record).map(|()| false)
        })?;
        if in_use {
            let said = "the network bridge follows the configuration when no container is in it any more";
            return Ok((Some(said.into()), false));
        }
        self.save_network(&wanted)?;
        Ok((said, true))
    }

    fn configured_bridge(&self, had: &NetworkRecord) -> Result<(NetworkRecord, Option<String>)> {
        let says = &self.network_defaults;
        let mut record = had.clone();
        let mut said = None;
        let occupied = self.occupied(Some(&had.network.id))?;
        let of_version =
            |v6: bool| had.network.ranges.iter().find(|range| range.subnet.is_v6() == v6).copied();
        let mut ranges = Vec::new();
        let configured = match (says.address, says.pool) {
            (Some((gateway, subnet)), pool) => Some(Range { subnet, pool, gateway: Some(gateway) }),
            (None, Some(subnet)) => Some(Range { subnet, pool: None, gateway: subnet.nth(1) }),
            (None, None) => None,
        };
        let had_v4 = of_version(false);
        match configured {
            Some(range) if had_v4.as_ref() == Some(&range) => ranges.push(range),
            Some(range) => match pool::collision(range.subnet, &occupied) {
                None => {
                    record.automatic = false;
                    ranges.push(range);
                }
                Some(other) => {
                    said = Some(format!(
                        "the network bridge keeps a range of its own: {} of the configuration overlaps {other}, which the host has",
                        range.subnet
                    ));
                    ranges.extend(had_v4);
                }
            },
            None if !had.automatic => {
                record.automatic = true;
                ranges.push(Range::of(pool::choose(&says.pools(), &occupied)?));
            }
            None => ranges.extend(had_v4),
        }
        record.ipv6 = says.ipv6.unwrap_or(false);
        if record.ipv6 {
            let configured = match (says.address_v6, says.pool_v6) {
                (Some((gateway, subnet)), pool) => Some(Range { subnet, pool, gateway: Some(gateway) }),
                (None, Some(subnet)) => Some(Range { subnet, pool: None, gateway: subnet.nth(1) }),
                (None, None) => of_version(true),
            };
            ranges.push(match configured {
                Some(range) => range,
                None => Range::of(says.choose_v6(&occupied)?),
            });
        }
        record.network.ranges = ranges;
        record.network.mtu = says.mtu;
        record.network.connected = says.connected.unwrap_or(true);
        record.network.masquerade = says.masquerade.unwrap_or(true);
        record.network = record.network.with_gateways();
        // The same as it is written: a range that had no gateway when it was made has one now.
        if record.network == had.network.clone().with_gateways() && record.ipv6 == had.ipv6 {
            return Ok((had.clone(), said));
        }
        Ok((record, said))
    }

    /// Adds the options that the configuration has for every bridge to a request's own.
    pub(super) fn default_options(
        &self,
        driver: Driver,
        own: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let mut options =
            if driver == Driver::Bridge { self.network_defaults.options.clone() } else { BTreeMap::new() };
        options.extend(own.iter().map(|(key, value)| (key.clone(), value.clone())));
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use robot_env_config::Source;

    #[test]
    fn dockers_keys() {
        let source = Source { path: "/etc/docker/daemon.json".into(), own: false };
        let text = r#"{"bip": "10.200.0.1/24", "fixed-cidr": "10.200.0.128/25", "mtu": 1400, "ipv6": true,
            "fixed-cidr-v6": "fd00:5::/64", "icc": false, "ip-masq": true,
            "default-address-pools": [{"base": "10.201.0.0/16", "size": 24}, {"base": "fd01::/32", "size": 64}],
            "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1300"}}}"#;
        let configuration = Configuration::of_text(&source, text);
        assert_eq!(configuration.findings, []);
        let defaults = NetworkDefaults::of(&configuration);
        let (address, subnet) = defaults.address.unwrap();
        assert_eq!((address.to_string(), subnet.to_string()), ("10.200.0.1".into(), "10.200.0.0/24".into()));
        assert_eq!(defaults.pool.unwrap().to_string(), "10.200.0.128/25");
        assert_eq!((defaults.mtu, defaults.ipv6, defaults.connected), (Some(1400), Some(true), Some(false)));
        assert_eq!(defaults.pools().len(), 1);
        assert_eq!(defaults.choose_v6(&[]).unwrap().to_string(), "fd01::/64");
        assert_eq!(defaults.options["com.docker.network.driver.mtu"], "1300");
        assert!(defaults.speak_of_the_bridge());
        let none = NetworkDefaults::of(&Configuration::of_text(&source, "{}"));
        assert!(!none.speak_of_the_bridge() && none.pools() == pool::default_pools());
        let pools = NetworkDefaults { pools: defaults.pools.clone(), ..NetworkDefaults::default() };
        assert!(!pools.speak_of_the_bridge());
    }
}
