//! Where cluster objects come from.
//!
//! A source reads Kubernetes objects and hands the whole of what it knows to the judge, at every change:
//! namespaces, pods, quotas, limit ranges, services, nodes, policies as `partywall_aggregator_core::identity::Cluster`. Today there is one, a directory of files.

pub mod dir;
pub mod objects;
pub mod yaml;

use std::path::PathBuf;

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
