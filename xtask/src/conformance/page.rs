//! `docs/conformance.md` as text.

use std::fmt::Write as _;

use super::plan::{Cell, Plan, Table};

const HEAD: &str = "\
# Conformance

What clients that others wrote, unmodified, were shown to do with GB6. Each \"yes\" is a test that
passed against a real server; a number names the reason why there is none. The page is made by
`cargo xtask conformance` from the results of the suites and from `tests/conformance/features.json`;
CI fails when it says anything else than they do.
";

/// The whole page.
pub(super) fn render(plan: &Plan, tables: &[Table]) -> String {
    let mut page = HEAD.to_owned();
    for (plan, table) in plan.tables.iter().zip(tables) {
        let _ = write!(page, "\n## {}\n\n{}\n\n|", plan.title, plan.intro);
        let titles = plan.columns.iter().map(|column| column.title.as_str());
        for title in [""].into_iter().chain(titles) {
            let _ = write!(page, " {title} |");
        }
        let _ = write!(page, "\n|---|{}\n", ":-:|".repeat(plan.columns.len()));
        let mut rows = table.rows.iter();
        for group in &plan.groups {
            let _ = writeln!(
                page,
                "| **{}** |{}",
                group.title,
                " |".repeat(plan.columns.len())
            );
            for (feature, row) in group.features.iter().zip(&mut rows) {
                let _ = write!(page, "| {} |", feature.title);
                for cell in row {
                    let _ = match cell {
                        Cell::Shown => write!(page, " yes |"),
                        Cell::Gap(number) => write!(page, " ({number}) |"),
                    };
                }
                page.push('\n');
            }
        }
        if !table.reasons.is_empty() {
            page.push('\n');
        }
        for (number, reason) in (1..).zip(&table.reasons) {
            let _ = writeln!(page, "{number}. {reason}");
        }
    }
    if !plan.absent.is_empty() {
        page.push_str("\n## What is not served\n\n| what | why, and what happens |\n|---|---|\n");
        for absent in &plan.absent {
            let _ = writeln!(page, "| {} | {} |", absent.what, absent.why);
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_groups_cells_and_reasons() {
        let plan: Plan = serde_json::from_str(
            r#"{"tables": [{"title": "SDKs", "intro": "These.",
                "columns": [{"id": "a", "title": "A", "stage": "s"}, {"id": "b", "title": "B", "stage": "s"}],
                "groups": [{"title": "Rooms", "features": [{"id": "x", "title": "publish"}]}],
                "gaps": []}],
                "absent": [{"what": "gRPC", "why": "nobody asked"}]}"#,
        )
        .unwrap();
        let table = Table {
            rows: vec![vec![Cell::Shown, Cell::Gap(1)]],
            reasons: vec!["the SDK has none".to_owned()],
        };
        let page = render(&plan, &[table]);
        let expected = "\n## SDKs\n\nThese.\n\n|  | A | B |\n|---|:-:|:-:|\n| **Rooms** | | |\n| publish | yes | (1) |\n\n1. the SDK has none\n\n## What is not served\n\n| what | why, and what happens |\n|---|---|\n| gRPC | nobody asked |\n";
        assert_eq!(page.strip_prefix(HEAD), Some(expected));
    }
}
