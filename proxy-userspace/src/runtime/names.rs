//! Names for the numbers in records of the packet path: the snapshot that the pumps read.

use crate::kernel::capture::Names;
use crate::kernel::plan::Ids;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::sync::Arc;

/// What ids and interface indices stand for, as of the last plan.
#[derive(Clone, Debug, Default)]
pub(crate) struct NameTable {
    /// Ids of listeners and backends.
    pub(crate) ids: Ids,
    /// Interfaces by index.
    pub(crate) interfaces: HashMap<u32, String>,
    /// How packets of services are forwarded.
    pub(crate) modes: HashMap<String, &'static str>,
}

/// The table, replaced as a whole by the control task.
pub(crate) type SharedNames = Arc<ArcSwap<NameTable>>;

impl NameTable {
    /// Name of an interface, or its index in a form that cannot be a name.
    pub(crate) fn interface_or_index(&self, index: u32) -> String {
        let known = self.interfaces.get(&index).cloned();
        known.unwrap_or_else(|| format!("#{index}"))
    }

    /// How packets of a service are forwarded.
    pub(crate) fn mode(&self, service: &str) -> Option<&'static str> {
        self.modes.get(service).copied()
    }

    /// Index of an interface.
    pub(crate) fn interface_index(&self, name: &str) -> Option<u32> {
        let mut known = self.interfaces.iter();
        known
            .find(|(_, known)| *known == name)
            .map(|(index, _)| *index)
    }
}

impl Names for NameTable {
    fn interface(&self, index: u32) -> Option<String> {
        self.interfaces.get(&index).cloned()
    }

    fn service(&self, id: u16) -> Option<String> {
        Some(self.ids.listener_of(id)?.service.clone())
    }

    fn backend(&self, id: u16) -> Option<String> {
        Some(self.ids.backend_of(id)?.backend.to_owned())
    }
}
