//! Which range a new network gets when its user names none.

use std::net::IpAddr;

use robot_env_diag::{Error, Kind, Result};

use crate::plan::random;
use crate::subnet::Subnet;

/// Ranges that networks are cut from, in order, and the size of a cut. They are private addresses
/// (RFC 1918) that stay clear of Docker's own (172.17.0.0/12 and 192.168.0.0/16) and of podman's
/// (10.88.0.0/16, 10.89.0.0/16), because those may come up later, when nothing can be checked any
/// more.
pub const DEFAULT_POOLS: [(&str, u8); 2] = [("10.213.0.0/16", 24), ("10.214.0.0/15", 24)];

/// The first range of `pools` that overlaps nothing of `occupied`: the routes and addresses of the
/// host ([`crate::link::occupied`]) and the subnets of the other networks, used now or not.
pub fn choose(pools: &[(Subnet, u8)], occupied: &[Subnet]) -> Result<Subnet> {
    pools
        .iter()
        .flat_map(|(pool, prefix)| cuts(*pool, *prefix))
        .find(|cut| !occupied.iter().any(|other| other.prefix() > 0 && other.overlaps(*cut)))
        .ok_or_else(|| {
            Error::new(
                Kind::Unavailable,
                "cannot choose a subnet: every range that networks are cut from overlaps a route of the host or another network",
            )
            .with_hint("give one: --subnet 10.1.2.0/24")
        })
}

/// [`DEFAULT_POOLS`], read.
pub fn default_pools() -> Vec<(Subnet, u8)> {
    DEFAULT_POOLS.iter().filter_map(|(text, prefix)| Some((text.parse().ok()?, *prefix))).collect()
}

/// A random unique local range (RFC 4193), for a network that wants IPv6 and names no subnet.
pub fn choose_v6(occupied: &[Subnet]) -> Result<Subnet> {
    for _ in 0..64 {
        let mut bytes = [0u8; 16];
        bytes[0] = 0xfd;
        bytes[1..6].copy_from_slice(&random::<5>());
        let Some(subnet) = Subnet::containing(IpAddr::from(bytes), 64) else { continue };
        if !occupied.iter().any(|other| other.prefix() > 0 && other.overlaps(subnet)) {
            return Ok(subnet);
        }
    }
    Err(Error::new(Kind::Unavailable, "cannot choose an IPv6 subnet: routes of the host cover fd00::/8"))
}

/// Does a subnet that a user asks for collide? The first of `occupied` that it overlaps. Default
/// routes don't count.
pub fn collision(subnet: Subnet, occupied: &[Subnet]) -> Option<Subnet> {
    occupied.iter().copied().find(|other| other.prefix() > 0 && other.overlaps(subnet))
}

fn cuts(pool: Subnet, prefix: u8) -> impl Iterator<Item = Subnet> {
    let size = Subnet::containing(pool.address(), prefix).map_or(u128::MAX, Subnet::host_mask);
    let mut next = Some(0u128);
    std::iter::from_fn(move || {
        let at = next?;
        next = at.checked_add(size).and_then(|end| end.checked_add(1));
        Subnet::containing(pool.nth(at)?, prefix).filter(|cut| pool.covers(*cut))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnets(texts: &[&str]) -> Vec<Subnet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn cuts_avoid_what_is_there() {
        let pools = [("10.50.0.0/22".parse().unwrap(), 24), ("10.60.0.0/24".parse().unwrap(), 25)];
        for (occupied, chosen) in [
            (&[][..], Some("10.50.0.0/24")),
            (&["0.0.0.0/0"], Some("10.50.0.0/24")),
            (&["10.50.0.7/32"], Some("10.50.1.0/24")),
            (&["10.50.0.0/23"], Some("10.50.2.0/24")),
            (&["10.50.0.0/16", "172.17.0.0/16"], Some("10.60.0.0/25")),
            (&["10.50.0.0/16", "10.60.0.0/25", "fd00::/8"], Some("10.60.0.128/25")),
            (&["10.0.0.0/8"], None),
        ] {
            let found = choose(&pools, &subnets(occupied)).ok().map(|cut| cut.to_string());
            assert_eq!(found.as_deref(), chosen, "{occupied:?}");
        }
        assert!(choose(&pools, &subnets(&["10.0.0.0/8"])).unwrap_err().hint().is_some());
    }

    #[test]
    fn the_defaults_are_ranges() {
        assert_eq!(default_pools().len(), DEFAULT_POOLS.len());
        let all: Vec<Subnet> =
            default_pools().iter().flat_map(|(pool, prefix)| cuts(*pool, *prefix)).collect();
        assert_eq!(all.len(), 256 + 512);
        let six = choose_v6(&subnets(&["::/0"])).unwrap();
        assert!(six.prefix() == 64 && "fd00::/8".parse::<Subnet>().unwrap().covers(six));
        assert!(choose_v6(&subnets(&["fd00::/8"])).is_err());
    }

    #[test]
    fn collisions_are_named() {
        let occupied = subnets(&["0.0.0.0/0", "192.168.1.0/24"]);
        let wide = "192.168.0.0/16".parse().unwrap();
        assert_eq!(collision(wide, &occupied).unwrap().to_string(), "192.168.1.0/24");
        assert_eq!(collision("10.0.0.0/8".parse().unwrap(), &occupied), None);
    }
}
