//! What the snapshot is made of: the files, and a directory where there is one. Each is looked at by itself, and
//! the last good state of one is put together with what is new of the other.

use gb6_core_model::snapshot::Snapshot;
use gb6_core_ports::directory::DirectoryError;
use gb6_geo_config_plan::{DirectoryPlan, Laid};

use crate::directory::Follower;
use crate::source::{Source, SourceError};

/// The files and the directory.
#[derive(Debug)]
pub(crate) struct Content {
    source: Source,
    directory: Option<Follower>,
    plan: DirectoryPlan,
    /// What the files said when they were good last.
    base: Option<Snapshot>,
}

/// What a look has found.
#[derive(Debug)]
pub(crate) struct Looked {
    /// The files were read: with or without a mistake.
    pub(crate) file: Option<Result<(), SourceError>>,
    /// The directory was looked at: whether it could be read.
    pub(crate) directory: Option<Result<(), DirectoryError>>,
    /// Something has changed, and this is what it comes to.
    pub(crate) laid: Option<Result<Laid, SourceError>>,
}

impl Content {
    pub(crate) fn new(source: Source, directory: Option<Follower>) -> Self {
        Self {
            source,
            directory,
            plan: DirectoryPlan::default(),
            base: None,
        }
    }

    /// Looks at all of it; `asked`: also at what does not seem to have changed; `again`: what was found last could
    /// not be kept. `last` is in force. Blocks.
    pub(crate) fn look(&mut self, asked: bool, again: bool, last: Option<&Snapshot>) -> Looked {
        let settled = self.source.settled_anew();
        let read = (asked || settled).then(|| self.source.read());
        let mut changed = again;
        let file = read.map(|read| {
            self.base = Some(read?);
            changed = true;
            Ok(())
        });
        let directory = self.directory.as_mut().map(|directory| {
            let looked = directory.look(asked);
            // Also where it failed: what could be read counts.
            changed |= directory.take_changed();
            looked
        });
        let laid = changed.then(|| self.lay(last)).flatten();
        Looked {
            file,
            directory,
            laid,
        }
    }

    /// `None`: the files or the directory were never good, so that nobody knows which instances there are.
    fn lay(&mut self, last: Option<&Snapshot>) -> Option<Result<Laid, SourceError>> {
        let base = self.base.as_ref()?;
        let Some(directory) = &self.directory else {
            return Some(Ok(Laid {
                snapshot: base.clone(),
                problems: Vec::new(),
            }));
        };
        let instances = directory.instances()?;
        let laid = self.plan.lay(base, &instances, last);
        Some(laid.map_err(SourceError::Directory))
    }
}
