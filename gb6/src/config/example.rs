//! Examples and documentation, written from the keys themselves.

use std::fmt::Write;

use super::key::Section;
use super::roles::RoleFile;

/// A commented file with every key at its default.
pub(crate) fn example<F: RoleFile>() -> String {
    let mut out = String::new();
    let role = F::COMMAND;
    // Writing to a string can not fail.
    let _ = writeln!(
        out,
        "# {}\n#\n# Every key stands here with its default. A flag goes before a variable, and a \
         variable before\n# this file: data_dir is --data-dir and GB6_DATA_DIR, and log.format is \
         --log-format and\n# GB6_LOG_FORMAT. Relative paths start where the process is started.\n#\n\
         #   gb6 {role} --config {role}.toml",
        F::ABOUT
    );
    for section in F::sections("", "") {
        out.push('\n');
        if !section.name.is_empty() {
            for line in section.doc.lines() {
                let _ = writeln!(out, "#{line}");
            }
            let _ = writeln!(out, "[{}]", section.name);
        }
        for key in &section.keys {
            for line in key.doc.lines() {
                let _ = writeln!(out, "#{line}");
            }
            let _ = writeln!(out, "{} = {}", key.name, key.default);
        }
    }
    out
}

/// The table of a role's keys in Markdown, for docs/configuration.md.
pub(crate) fn markdown<F: RoleFile>() -> String {
    let mut out = format!("## {} file\n\n{}\n", F::COMMAND, F::ABOUT);
    for Section { name, keys, .. } in F::sections("", "") {
        let title = if name.is_empty() {
            "Top of the file".to_owned()
        } else {
            format!("`[{name}]`")
        };
        let _ = write!(
            out,
            "\n### {}: {title}\n\n| key | default | flag, variable | meaning |\n|---|---|---|---|\n",
            F::COMMAND
        );
        for key in keys {
            let words: Vec<&str> = key.doc.lines().map(str::trim).collect();
            let _ = writeln!(
                out,
                "| `{}` | `{}` | `--{}`, `{}` | {} |",
                key.name,
                key.default,
                key.flag(),
                key.variable(),
                words.join(" ").replace('|', "\\|")
            );
        }
    }
    out
}
