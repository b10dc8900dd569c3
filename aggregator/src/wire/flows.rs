//! A report's flows as they came → flows that the core may look at: addresses, ports and roles are checked here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use partywall_aggregator_core::report as core;
use partywall_aggregator_core::report::{Refusal, Role};
use partywall_proto::v1;

use super::report::refuse;

pub(super) fn flow((i, flow): (usize, &v1::Flow)) -> Result<core::Flow, Refusal> {
    let Ok(protocol) = u8::try_from(flow.protocol) else {
        return refuse(
            "malformed",
            format!("flows[{i}].protocol"),
            format!("{} is no protocol number, 0 to 255", flow.protocol),
        );
    };
    let Ok(port) = u16::try_from(flow.port) else {
        return refuse(
            "malformed",
            format!("flows[{i}].port"),
            format!("{} is no port, 0 to 65535", flow.port),
        );
    };
    let role = match v1::Role::try_from(flow.role) {
        Ok(v1::Role::Opened) => Role::Opened,
        Ok(v1::Role::Accepted) => Role::Accepted,
        // A connection that is older than the agent, of which neither port tells.
        Ok(v1::Role::Unspecified) => Role::Unknown,
        Err(_) => {
            return refuse(
                "malformed",
                format!("flows[{i}].role"),
                format!(
                    "{} is none of OPENED (1), ACCEPTED (2), UNSPECIFIED (0)",
                    flow.role
                ),
            );
        }
    };
    let [local, peer] = [("local", &flow.local), ("peer", &flow.peer)]
        .map(|(name, bytes)| address(|| format!("flows[{i}].{name}"), bytes));
    let (local, peer) = (local?, peer?);
    if local.is_ipv4() != peer.is_ipv4() {
        return refuse(
            "malformed",
            format!("flows[{i}].peer"),
            format!("{peer} is of another family than local, {local}"),
        );
    }
    Ok(core::Flow {
        index: flow.index,
        entity: flow.entity,
        local,
        peer,
        protocol,
        port,
        role,
    })
}

pub(super) fn sample((i, sample): (usize, v1::FlowSample)) -> Result<core::FlowSample, Refusal> {
    Ok(core::FlowSample {
        flow: sample.flow,
        traffic: traffic(|| format!("flow_samples[{i}].traffic"), sample.traffic)?,
    })
}

pub(super) fn folded((i, folded): (usize, v1::FoldedTraffic)) -> Result<core::FoldedTraffic, Refusal> {
    Ok(core::FoldedTraffic {
        entity: folded.entity,
        traffic: traffic(|| format!("folded[{i}].traffic"), folded.traffic)?,
    })
}

/// Four or sixteen bytes; `::ffff:a.b.c.d` is a.b.c.d.
fn address(field: impl Fn() -> String, bytes: &[u8]) -> Result<IpAddr, Refusal> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(IpAddr::V4(Ipv4Addr::from(v4)));
    }
    if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        return Ok(IpAddr::V6(Ipv6Addr::from(v6)).to_canonical());
    }
    let problem = format!("{} bytes are no address: it has 4 or 16", bytes.len());
    refuse("malformed", field(), problem)
}

fn traffic(field: impl Fn() -> String, traffic: Option<v1::Traffic>) -> Result<core::Traffic, Refusal> {
    let Some(t) = traffic else {
        return refuse("malformed", field(), "is absent".into());
    };
    Ok(core::Traffic {
        sent_packets: t.sent_packets,
        sent_bytes: t.sent_bytes,
        received_packets: t.received_packets,
        received_bytes: t.received_bytes,
        opened: t.opened,
        established: t.established,
        refused: t.refused,
        reset: t.reset,
        timed_out: t.timed_out,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> v1::Flow {
        v1::Flow {
            index: 1,
            entity: 1,
            local: vec![10, 0, 0, 1].into(),
            peer: vec![10, 0, 0, 2].into(),
            protocol: 6,
            port: 80,
            role: v1::Role::Opened.into(),
        }
    }

    #[test]
    fn mapped_addresses_are_the_ones_they_map() {
        let mut flow = good();
        flow.local = [[0; 10].as_slice(), &[0xff, 0xff, 10, 0, 0, 9]].concat().into();
        let core = super::flow((0, &flow)).unwrap();
        assert_eq!(core.local, IpAddr::from([10, 0, 0, 9]));
        flow.local = vec![0; 16].into();
        flow.peer = [[0xfd].as_slice(), &[0; 15]].concat().into();
        let core = super::flow((0, &flow)).unwrap();
        assert_eq!(core.peer, "fd00::".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value() {
        type Spoil = fn(&mut v1::Flow);
        let table: &[(&str, &str, Spoil)] = &[
            ("flows[7].protocol", "256", |f| f.protocol = 256),
            ("flows[7].port", "65536", |f| f.port = 65_536),
            ("flows[7].role", "9", |f| f.role = 9),
            ("flows[7].local", "0 bytes", |f| f.local = Vec::new().into()),
            ("flows[7].peer", "5 bytes", |f| f.peer = vec![0; 5].into()),
            ("flows[7].peer", "family", |f| f.peer = vec![1; 16].into()),
        ];
        for (field, needle, spoil) in table {
            let mut bad = good();
            spoil(&mut bad);
            let refusal = flow((7, &bad)).expect_err(field);
            assert_eq!(refusal.field, *field);
            assert!(refusal.problem.contains(needle), "{refusal}");
        }
        let refusal = sample((3, v1::FlowSample::default())).expect_err("no traffic");
        assert_eq!(refusal.field, "flow_samples[3].traffic");
        let refusal = folded((3, v1::FoldedTraffic::default())).expect_err("no traffic");
        assert_eq!(refusal.field, "folded[3].traffic");
    }
}
