//! What is to be shown, and whether the results of the suites show it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// `tests/conformance/features.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    /// Each becomes a table of the page.
    pub(super) tables: Vec<TablePlan>,
    /// What no table has a row for: parts of the protocol that are not served.
    pub(super) absent: Vec<Absent>,
}

/// One table: features in groups against combinations.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TablePlan {
    /// The heading.
    pub(super) title: String,
    /// What the reader should know first.
    pub(super) intro: String,
    /// What the features are shown on.
    pub(super) columns: Vec<Column>,
    /// The features.
    pub(super) groups: Vec<Group>,
    /// Cells that can not be shown, and why.
    gaps: Vec<Gap>,
}

/// A combination of SDK, transport and encoding.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Column {
    /// As the results name it: `sdk/transport/encoding`.
    id: String,
    /// As the page names it.
    pub(super) title: String,
    /// The stage of `scripts/test.sh` that shows it.
    stage: String,
}

/// Features of one kind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    /// What they have in common.
    pub(super) title: String,
    /// In the order of the page.
    pub(super) features: Vec<Feature>,
}

/// Something that an application relies on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Feature {
    /// As the results name it.
    id: String,
    /// As the page names it.
    pub(super) title: String,
}

/// Cells that can not be shown.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Gap {
    /// Features; `*`: all.
    features: Vec<String>,
    /// Columns; a `*` at the end stands for any rest.
    on: Vec<String>,
    /// The reason, as the page gives it.
    why: String,
}

/// Something that is not served.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Absent {
    /// What.
    pub(super) what: String,
    /// Why not, and what happens instead.
    pub(super) why: String,
}

/// What one test showed, or failed to show.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Proof {
    /// Which feature.
    pub(super) feature: String,
    /// On which combination.
    pub(super) on: String,
    /// By which test.
    pub(super) test: String,
    /// Whether it passed.
    pub(super) passed: bool,
}

/// A cell of the page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Cell {
    /// A test showed it.
    Shown,
    /// It can not be shown: the number of the reason, from 1.
    Gap(usize),
}

/// The cells and reasons of one table.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Table {
    /// One row a feature, in the order of the groups.
    pub(super) rows: Vec<Vec<Cell>>,
    /// The reasons that the cells name.
    pub(super) reasons: Vec<String>,
}

fn matches(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|p| match p.strip_suffix('*') {
        Some(begin) => name.starts_with(begin),
        None => p == name,
    })
}

impl Plan {
    /// The tables that the proofs make; or everything that is wrong.
    pub(super) fn tables(&self, proofs: &[Proof]) -> Result<Vec<Table>, Vec<String>> {
        let mut problems = Vec::new();
        let mut by_cell: BTreeMap<(&str, &str), Vec<&Proof>> = BTreeMap::new();
        for proof in proofs {
            if !proof.passed {
                problems.push(format!(
                    "{} on {}: the test {:?} failed",
                    proof.feature, proof.on, proof.test
                ));
            }
            by_cell
                .entry((&proof.feature, &proof.on))
                .or_default()
                .push(proof);
        }
        let mut planned = BTreeSet::new();
        let tables = self
            .tables
            .iter()
            .map(|table| table.fill(&by_cell, &mut planned, &mut problems))
            .collect();
        for ((feature, on), shown) in &by_cell {
            if !planned.contains(&(*feature, *on)) {
                problems.push(format!(
                    "the test {:?} shows {feature} on {on}, which the plan does not have",
                    shown[0].test
                ));
            }
        }
        if problems.is_empty() {
            Ok(tables)
        } else {
            Err(problems)
        }
    }
}

impl TablePlan {
    fn fill<'a>(
        &'a self,
        proofs: &BTreeMap<(&str, &str), Vec<&Proof>>,
        planned: &mut BTreeSet<(&'a str, &'a str)>,
        problems: &mut Vec<String>,
    ) -> Table {
        let mut rows = Vec::new();
        let mut used = vec![false; self.gaps.len()];
        let mut numbers: Vec<usize> = Vec::new();
        let unrun: BTreeSet<&str> = self
            .columns
            .iter()
            .filter(|column| !proofs.keys().any(|(_, on)| *on == column.id))
            .map(|column| column.id.as_str())
            .collect();
        for column in self
            .columns
            .iter()
            .filter(|c| unrun.contains(c.id.as_str()))
        {
            problems.push(format!(
                "there are no results for {}: run `scripts/test.sh {}`",
                column.id, column.stage
            ));
        }
        for feature in self.groups.iter().flat_map(|group| &group.features) {
            let mut row = Vec::new();
            for column in &self.columns {
                planned.insert((feature.id.as_str(), column.id.as_str()));
                let shown = proofs.get(&(feature.id.as_str(), column.id.as_str()));
                let gap = self.gaps.iter().position(|gap| {
                    matches(&gap.features, &feature.id) && matches(&gap.on, &column.id)
                });
                let cell = format!("{} on {}", feature.id, column.id);
                row.push(match (shown, gap) {
                    (Some(_), None) => Cell::Shown,
                    (None, Some(gap)) => {
                        used[gap] = true;
                        let number = numbers.iter().position(|g| *g == gap).unwrap_or_else(|| {
                            numbers.push(gap);
                            numbers.len() - 1
                        });
                        Cell::Gap(number + 1)
                    }
                    (Some(shown), Some(gap)) => {
                        used[gap] = true;
                        problems.push(format!(
                            "{cell} is shown by {:?}, and the plan says that it can not be: {}",
                            shown[0].test, self.gaps[gap].why
                        ));
                        Cell::Shown
                    }
                    (None, None) => {
                        if !unrun.contains(column.id.as_str()) {
                            problems.push(format!(
                                "{cell}: no test shows it, and the plan gives no reason"
                            ));
                        }
                        Cell::Shown
                    }
                });
            }
            rows.push(row);
        }
        for (gap, _) in self.gaps.iter().zip(used).filter(|(_, used)| !used) {
            problems.push(format!("this reason is for no cell: {}", gap.why));
        }
        Table {
            rows,
            reasons: numbers.iter().map(|g| self.gaps[*g].why.clone()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(gaps: &str) -> Plan {
        let text = format!(
            r#"{{"tables": [{{"title": "t", "intro": "i",
                "columns": [{{"id": "js/a/json", "title": "A", "stage": "sdk"}},
                            {{"id": "py/a/json", "title": "B", "stage": "sdk-python"}}],
                "groups": [{{"title": "g", "features": [
                    {{"id": "connect", "title": "c"}}, {{"id": "batch", "title": "b"}}]}}],
                "gaps": [{gaps}]}}], "absent": []}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn proof(feature: &str, on: &str) -> Proof {
        Proof {
            feature: feature.to_owned(),
            on: on.to_owned(),
            test: format!("test of {feature}"),
            passed: true,
        }
    }

    const GAP: &str = r#"{"features": ["batch"], "on": ["py/*"], "why": "no call for it"}"#;

    fn all() -> Vec<Proof> {
        vec![
            proof("connect", "js/a/json"),
            proof("connect", "py/a/json"),
            proof("batch", "js/a/json"),
        ]
    }

    #[test]
    fn proofs_and_reasons_fill_the_table() {
        let tables = plan(GAP).tables(&all()).unwrap();
        let rows = vec![
            vec![Cell::Shown, Cell::Shown],
            vec![Cell::Shown, Cell::Gap(1)],
        ];
        let reasons = vec!["no call for it".to_owned()];
        assert_eq!(tables, [Table { rows, reasons }]);
    }

    #[test]
    fn what_is_neither_shown_nor_explained_is_a_problem() {
        let problems = plan("").tables(&all()).unwrap_err();
        let expected = "batch on py/a/json: no test shows it, and the plan gives no reason";
        assert_eq!(problems, [expected]);
    }

    #[test]
    fn a_reason_that_a_proof_contradicts_is_a_problem() {
        let mut proofs = all();
        proofs.push(proof("batch", "py/a/json"));
        let problems = plan(GAP).tables(&proofs).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("it can not be"), "{problems:?}");
    }

    #[test]
    fn a_failed_test_proves_nothing() {
        let mut proofs = all();
        proofs[2].passed = false;
        let problems = plan(GAP).tables(&proofs).unwrap_err();
        assert_eq!(
            problems,
            ["batch on js/a/json: the test \"test of batch\" failed"]
        );
    }

    #[test]
    fn a_suite_that_did_not_run_is_named_once() {
        let proofs: Vec<Proof> = all().into_iter().filter(|p| p.on != "py/a/json").collect();
        let problems = plan(GAP).tables(&proofs).unwrap_err();
        let expected = "there are no results for py/a/json: run `scripts/test.sh sdk-python`";
        assert_eq!(problems, [expected]);
    }

    #[test]
    fn what_the_plan_does_not_know_is_a_problem() {
        let mut proofs = all();
        proofs.push(proof("conect", "py/a/json"));
        assert!(plan(GAP).tables(&proofs).unwrap_err()[0].contains("the plan does not have"));
        let stale = format!(r#"{GAP}, {{"features": ["x"], "on": ["*"], "why": "stale"}}"#);
        let problems = plan(&stale).tables(&all()).unwrap_err();
        assert_eq!(problems, ["this reason is for no cell: stale"]);
    }
}
