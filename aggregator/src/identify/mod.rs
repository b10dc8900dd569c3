//! Where cluster objects come from.
//!
//! A source reads Kubernetes objects and hands the whole of what it knows to the judge, at every change:
//! namespaces, pods, quotas, limit ranges, services, nodes, policies as `partywall_aggregator_core::identity::Cluster`. There are two, a directory
//! of files and a cluster's API; both read objects with the same parser.

pub mod api;
pub mod dir;
pub mod objects;
pub mod yaml;

use std::path::PathBuf;

use partywall_aggregator_core::identity::{Cluster, UnjudgedQuota};

/// What a source says about itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterStatus {
    pub files: usize,
    /// Files that cannot be used as they are; what they said before still counts. Path and error.
    pub broken: Vec<(PathBuf, String)>,
    pub namespaces: usize,
    pub pods: usize,
    pub quotas: usize,
    pub limit_ranges: usize,
    pub network_policies: usize,
    pub foreign_policies: usize,
    pub nodes: usize,
    pub services: usize,
    pub endpoint_slices: usize,
    /// Capsule's Tenant objects; `None`: nobody told whether there are any.
    pub capsule_tenants: Option<usize>,
    /// Quotas that bound nothing here, each with its reason.
    pub unjudged_quotas: Vec<UnjudgedQuota>,
    /// What a source that watches an API says of its watches. `None`: files.
    pub api: Option<api::Status>,
    /// Objects of kinds that Partywall does not read.
    pub ignored: u64,
    /// Objects that another file has too; the first file by name counts.
    pub duplicates: u64,
    /// The first of those: the file that counts less, kind and name.
    pub first_duplicate: Option<(PathBuf, String)>,
    /// Policies that name no namespace, and were taken for the namespace `default`: file, kind and name.
    pub unplaced: Vec<(PathBuf, String)>,
    /// Times that something was taken over.
    pub loads: u64,
    /// Times that a file was found broken.
    pub failures: u64,
}

impl ClusterStatus {
    /// How many objects of each kind there are.
    fn count(&mut self, cluster: &Cluster) {
        self.namespaces = cluster.namespaces.len();
        self.pods = cluster.pods.len();
        self.quotas = cluster.quotas.len();
        self.limit_ranges = cluster.limit_ranges.len();
        self.network_policies = cluster.network_policies.len();
        self.foreign_policies = cluster.foreign_policies.len();
        self.nodes = cluster.nodes.len();
        self.services = cluster.services.len();
        self.endpoint_slices = cluster.endpoint_slices.len();
        self.capsule_tenants = cluster
            .capsule_tenants
            .as_ref()
            .map(std::collections::BTreeSet::len);
        self.unjudged_quotas.clone_from(&cluster.unjudged_quotas);
    }
}
