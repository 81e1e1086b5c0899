//! Questions to whoever owns an archive. Who wants to begin from an archive asks first whether its owner
//! lives, which the archive alone does not say: an owner that has nothing to copy changes nothing. An owner
//! looks for questions every some seconds, and answers by removing them.

use gb6_core_ports::{BlobKey, PutIf, StoreError};

use crate::archive::{Archive, LIST_PAGE};

/// A question that was asked.
#[derive(Debug)]
pub struct Question(BlobKey);

impl Archive {
    /// Asks for `node` whether the archive's owner lives.
    ///
    /// # Errors
    /// `Unavailable`, `OutcomeUnknown`: ask again. `Conflict`: the node's name can not be part of a key.
    pub fn ask(&self, node: &str) -> Result<Question, StoreError> {
        let key = self.names.question(node)?;
        let by = node.to_owned().into_bytes();
        self.blobs().put(&key, by.into(), PutIf::Always)?;
        Ok(Question(key))
    }

    /// Whether somebody has answered: then an owner lives, or another start of the same name asks.
    ///
    /// # Errors
    /// `Unavailable`.
    pub fn is_answered(&self, question: &Question) -> Result<bool, StoreError> {
        Ok(self.blobs().head(&question.0)?.is_none())
    }

    /// Takes a question back that nobody has answered.
    ///
    /// # Errors
    /// `Unavailable`: it is answered by whoever owns the archive next.
    pub fn withdraw(&self, question: Question) -> Result<(), StoreError> {
        self.blobs().delete(&question.0)
    }

    /// The questions that nobody has answered yet.
    ///
    /// # Errors
    /// `Unavailable`.
    pub fn questions(&self) -> Result<Vec<Question>, StoreError> {
        let folder = self.names.folder("asked");
        let page = self.blobs().list(&folder, None, LIST_PAGE)?;
        Ok(page.into_iter().map(|meta| Question(meta.key)).collect())
    }

    /// Answers, as the archive's owner: it lives.
    ///
    /// # Errors
    /// `Unavailable`: answer again.
    pub fn answer(&self, questions: Vec<Question>) -> Result<(), StoreError> {
        questions
            .into_iter()
            .try_for_each(|question| self.blobs().delete(&question.0))
    }
}
