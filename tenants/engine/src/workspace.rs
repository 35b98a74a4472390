//! What splitting one request leaves for the next of the same tenant: resources that were read, memory that was taken.

use std::sync::{Mutex, PoisonError};

use crate::frame::FrameBuilder;
use crate::intern::Dictionary;
use crate::resource_cache::ResourceCache;

/// Most bytes of frame builders that a tenant keeps between requests.
const MAX_BUILDER_BYTES: usize = 4 << 20;

/// The workspace of a plan, lent to one request at a time; a request that finds it lent begins with an empty one.
#[derive(Debug, Default)]
pub struct SharedWorkspace(Mutex<Option<Workspace>>);

/// Resources by content, and a frame builder for each shard.
#[derive(Debug, Default)]
pub struct Workspace {
    /// Resources read before.
    pub resources: ResourceCache,
    /// Empty builders.
    pub builders: Vec<Option<Box<FrameBuilder>>>,
    /// An empty dictionary for the names of services.
    pub services: Dictionary,
    /// How many requests used it.
    pub requests: u64,
}

impl SharedWorkspace {
    /// Borrow the workspace for one request.
    pub fn take(&self, shards: usize) -> Workspace {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut workspace = slot.take().unwrap_or_default();
        workspace.resources.keep_within_bound();
        workspace.requests += 1;
        workspace.builders.resize_with(shards, || None);
        workspace
    }

    /// Bytes held between requests.
    pub fn state_bytes(&self) -> usize {
        let slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref().map_or(0, |workspace| {
            let builders = workspace.builders.iter().flatten();
            workspace.resources.state_bytes()
                + workspace.services.state_bytes()
                + builders.map(|builder| builder.state_bytes()).sum::<usize>()
        })
    }

    /// Give it back.
    pub fn put(&self, mut workspace: Workspace) {
        let held = workspace.builders.iter().flatten();
        if held.map(|builder| builder.state_bytes()).sum::<usize>() > MAX_BUILDER_BYTES {
            workspace.builders.clear();
        }
        for builder in workspace.builders.iter_mut().flatten() {
            builder.clear();
        }
        workspace.services.clear();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(workspace);
    }
}
