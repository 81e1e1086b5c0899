//! Secrets of keys, sealed for the row that they are in: bound to customer, instance and key id.

use gb6_core_model::InstanceId;
use gb6_core_ports::directory::{DirectoryError, OrgId, Secret};
use gb6_core_ports::{SealError, Sealer};

use crate::fault::Fault;

fn place<'a>(root: &'a OrgId, instance: &'a InstanceId, id: &'a str) -> [&'a [u8]; 4] {
    [
        b"gb6.seal.key",
        root.as_str().as_bytes(),
        instance.as_str().as_bytes(),
        id.as_bytes(),
    ]
}

/// Seals a key's secret.
pub(super) fn seal(
    sealer: &Sealer,
    root: &OrgId,
    instance: &InstanceId,
    id: &str,
    secret: &Secret,
) -> Result<Vec<u8>, Fault> {
    let sealed = sealer.seal(&place(root, instance, id), &secret.0);
    sealed.map_err(|_| Fault::Refused("a secret can not be sealed".into()))
}

/// Opens one.
pub(super) fn open(
    sealer: &Sealer,
    root: &OrgId,
    instance: &InstanceId,
    id: &str,
    sealed: &[u8],
) -> Result<Vec<u8>, Fault> {
    let opened = sealer.open(&place(root, instance, id), sealed);
    opened.map_err(|error| match error {
        // About this record alone: the database is as it should be.
        SealError::UnknownKey => DirectoryError::invalid(format!(
            "the secret of key {instance}/{id} is sealed with a key that was not given: \
             give the sealing key that was used before as an earlier one"
        ))
        .into(),
        SealError::Damaged | SealError::Failed => {
            Fault::Damaged(format!("the secret of key {instance}/{id} is damaged"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_where_it_belongs_alone() {
        let root = OrgId::parse("org_01J00000000000000000000001").unwrap();
        let other = OrgId::parse("org_01J00000000000000000000002").unwrap();
        let (demo, acme) = (InstanceId::from("demo"), InstanceId::from("acme"));
        let sealer = Sealer::new(&[1; 32], &[]);
        let secret = Secret(b"hush".to_vec());
        let sealed = seal(&sealer, &root, &demo, "k", &secret).unwrap();
        assert_eq!(open(&sealer, &root, &demo, "k", &sealed).unwrap(), b"hush");
        for (root, instance, id) in [
            (&other, &demo, "k"),
            (&root, &acme, "k"),
            (&root, &demo, "l"),
        ] {
            let opened = open(&sealer, root, instance, id, &sealed);
            assert!(matches!(opened, Err(Fault::Damaged(_))), "{opened:?}");
        }
        let forgotten = open(&Sealer::new(&[2; 32], &[]), &root, &demo, "k", &sealed);
        assert!(matches!(forgotten, Err(Fault::Answer(_))), "{forgotten:?}");
    }
}
