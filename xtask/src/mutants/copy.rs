//! The copy of the sources in which mutants are made.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Where the copy and its build lie, below the workspace.
const FOLDER: &str = "target/mutants";

/// A copy of every file that git knows or would add.
pub(crate) struct Copy {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
}

impl Copy {
    /// Makes the copy, or brings it up to date. Files that are the same are not written, so that
    /// a second run builds only what has changed.
    pub(crate) fn make(root: &Path) -> Result<Self> {
        let copy = Self {
            source: root.join(FOLDER).join("src"),
            target: root.join(FOLDER).join("target"),
        };
        let files = listed(root)?;
        for file in &files {
            let from = root.join(file);
            let to = copy.source.join(file);
            // Deleted and not yet committed, or no regular file.
            if !fs::symlink_metadata(&from).is_ok_and(|m| m.is_file()) {
                continue;
            }
            let wanted = fs::read(&from).with_context(|| format!("{file} can not be read"))?;
            if fs::read(&to).is_ok_and(|had| had == wanted) {
                continue;
            }
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder)
                    .with_context(|| format!("{} can not be made", folder.display()))?;
            }
            fs::write(&to, wanted).with_context(|| format!("{file} can not be copied"))?;
        }
        copy.remove_all_but(&files, root)?;
        Ok(copy)
    }

    /// Removes what the sources no longer have.
    fn remove_all_but(&self, files: &BTreeSet<String>, root: &Path) -> Result<()> {
        for path in crate::tidy::files_below(&self.source, &|_| true)? {
            let file = crate::tidy::relative(&self.source, &path);
            if !files.contains(&file) || !root.join(&file).exists() {
                fs::remove_file(&path)
                    .with_context(|| format!("{} can not be removed", path.display()))?;
            }
        }
        Ok(())
    }

    pub(crate) fn read(&self, file: &str) -> Result<String> {
        fs::read_to_string(self.source.join(file))
            .with_context(|| format!("{file} can not be read"))
    }

    pub(crate) fn write(&self, file: &str, text: &str) -> Result<()> {
        fs::write(self.source.join(file), text)
            .with_context(|| format!("{file} can not be written"))
    }
}

fn listed(root: &Path) -> Result<BTreeSet<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others"])
        .arg("--exclude-standard")
        .current_dir(root)
        .output()
        .context("git can not be run; mutants copies what git lists")?;
    if !output.status.success() {
        bail!(
            "git ls-files failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let names = String::from_utf8(output.stdout).context("a file's name is not UTF-8")?;
    Ok(names
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}
