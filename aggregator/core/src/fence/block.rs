//! `ipBlock`: a range of addresses, less some within it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

/// Addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpBlock {
    cidr: IpNet,
    except: Vec<IpNet>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    #[error("{0:?} is no CIDR, such as 10.0.0.0/8 or fd00::/8")]
    NoCidr(String),
    #[error("{0:?} is not within {1}, or is all of it")]
    NotWithin(String, IpNet),
}

impl IpBlock {
    /// Bits beyond the prefix are of no account: the API documentation's own example is `192.168.1.1/24`.
    ///
    /// # Errors
    /// Not an address, a slash and the length of a prefix.
    pub fn new(cidr: &str) -> Result<Self, BlockError> {
        Ok(Self {
            cidr: parse(cidr)?,
            except: Vec::new(),
        })
    }

    /// Leaves a part out.
    ///
    /// # Errors
    /// It is no CIDR, or no true part of the block.
    pub fn leave_out(&mut self, cidr: &str) -> Result<(), BlockError> {
        let part = parse(cidr)?;
        if !self.cidr.contains(&part) || part == self.cidr {
            return Err(BlockError::NotWithin(cidr.to_owned(), self.cidr));
        }
        self.except.push(part);
        Ok(())
    }

    pub(super) fn cidr(&self) -> IpNet {
        self.cidr
    }

    pub(super) fn except(&self) -> &[IpNet] {
        &self.except
    }

    /// `::ffff:a.b.c.d` is `a.b.c.d`.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.cidr.contains(&address) && !self.except.iter().any(|part| part.contains(&address))
    }
}

fn parse(text: &str) -> Result<IpNet, BlockError> {
    let wrong = || BlockError::NoCidr(text.chars().take(80).collect());
    let net: IpNet = text.parse().map_err(|_| wrong())?;
    let IpNet::V6(v6) = net else {
        return Ok(net.trunc());
    };
    // As Go's `net` package reads it: an IPv4 range in IPv6 spelling.
    match (v6.network().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
        (Some(v4), Some(length)) => mapped(v4, length).ok_or_else(wrong),
        _ => Ok(net.trunc()),
    }
}

fn mapped(network: Ipv4Addr, length: u8) -> Option<IpNet> {
    Ipv4Net::new(network, length)
        .ok()
        .map(|net| IpNet::V4(net.trunc()))
}

impl fmt::Display for IpBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cidr)?;
        for (i, part) in self.except.iter().enumerate() {
            write!(f, "{}{part}", if i == 0 { " except " } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_or_out() {
        for (cidr, except, address, wanted) in [
            ("10.0.0.0/8", &[][..], "10.255.255.255", true),
            ("10.0.0.0/8", &[], "11.0.0.0", false),
            ("10.0.0.0/8", &["10.1.0.0/16"], "10.1.2.3", false),
            ("10.0.0.0/8", &["10.1.0.0/16"], "10.2.2.3", true),
            ("10.0.0.0/8", &["10.1.0.0/16", "10.2.0.0/16"], "10.2.2.3", false),
            ("192.168.1.1/24", &[], "192.168.1.200", true),
            ("10.0.0.7/32", &[], "10.0.0.7", true),
            ("10.0.0.7/32", &[], "10.0.0.8", false),
            ("0.0.0.0/0", &["169.254.169.254/32"], "169.254.169.254", false),
            ("0.0.0.0/0", &[], "203.0.113.9", true),
            ("0.0.0.0/0", &[], "2001:db8::1", false),
            ("0.0.0.0/0", &[], "::ffff:203.0.113.9", true),
            ("::/0", &[], "203.0.113.9", false),
            ("::/0", &[], "2001:db8::1", true),
            ("2001:db8::/32", &["2001:db8:1::/48"], "2001:db8:1::9", false),
            ("2001:db8::/32", &["2001:db8:1::/48"], "2001:db8:2::9", true),
            ("::ffff:10.0.0.0/104", &[], "10.9.9.9", true),
            // Decimal, as the API server reads it.
            ("010.0.0.0/8", &[], "10.9.9.9", true),
        ] {
            let mut block = IpBlock::new(cidr).unwrap();
            for part in except {
                block.leave_out(part).unwrap();
            }
            assert_eq!(
                block.contains(address.parse().unwrap()),
                wanted,
                "{block} {address}"
            );
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in [
            "",
            "10.0.0.1",
            "10.0.0.0/33",
            "10.0.0/8",
            "10.0.0.0/-1",
            "10.0.0.0/",
            "fd00::/129",
            "a/8",
            "10.0.0.0/8 ",
            "fe80::1%eth0/64",
        ] {
            assert_eq!(
                IpBlock::new(text),
                Err(BlockError::NoCidr(text.to_owned())),
                "{text}"
            );
        }
        let mut block = IpBlock::new("10.0.0.0/16").unwrap();
        for text in [
            "10.1.0.0/24",
            "10.0.0.0/16",
            "10.0.0.0/8",
            "fd00::/64",
            "0.0.0.0/0",
        ] {
            let error = block.leave_out(text).unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("10.0.0.0/16"), "{error}");
        }
    }
}
