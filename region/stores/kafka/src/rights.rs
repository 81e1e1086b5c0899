//! What the user of a cluster may do with a topic. Each right is tried by the request that needs it, made
//! so that it changes nothing: brokers look at rights before they look at what is asked.

use std::time::{Duration, Instant};

use gb6_core_ports::Check;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;

use crate::client::{ASK, GROUP, Told, base, consumer, make_consumer};
use crate::config::{Config, Security};
use crate::errors;

/// What somebody may do with a topic, as Kafka names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Right {
    Create,
    Delete,
    Describe,
    DescribeConfigs,
    Read,
    Write,
}

/// What is done with a topic of logs that is there. That it is described and its settings are read has been
/// tried by whoever comes to the others.
pub(crate) const OF_LOG: &[Right] = &[
    Right::Describe,
    Right::DescribeConfigs,
    Right::Read,
    Right::Write,
    Right::Delete,
];
/// What is done with a topic of events that is there.
pub(crate) const OF_EVENTS: &[Right] = &[Right::Describe, Right::DescribeConfigs, Right::Write];

/// A number of acknowledgements that no broker takes (`INVALID_REQUIRED_ACKS`): it refuses a message for it,
/// of those who may write.
const ACKS_REFUSED: &str = "2";
/// How long what a consumer was told before takes to be heard, and how much of it is.
const TOLD_WITHIN: Duration = Duration::from_millis(50);
const TOLD_MAX: usize = 100;

impl Right {
    /// As Kafka's documentation writes it.
    fn name(self) -> &'static str {
        match self {
            Right::Create => "CREATE",
            Right::Delete => "DELETE",
            Right::Describe => "DESCRIBE",
            Right::DescribeConfigs => "DESCRIBE_CONFIGS",
            Right::Read => "READ",
            Right::Write => "WRITE",
        }
    }

    /// As Kafka's command takes it.
    fn operation(self) -> &'static str {
        match self {
            Right::Create => "Create",
            Right::Delete => "Delete",
            Right::Describe => "Describe",
            Right::DescribeConfigs => "DescribeConfigs",
            Right::Read => "Read",
            Right::Write => "Write",
        }
    }

    /// All of them, in words.
    pub(crate) fn names(rights: &[Right]) -> String {
        let names: Vec<&str> = rights.iter().map(|right| right.name()).collect();
        names.join(", ")
    }

    /// That rights on a topic are missing, and the command that gives them.
    pub(crate) fn lacking(config: &Config, topic: &str, rights: &[Right]) -> String {
        Self::lacking_on(config, ("topic", topic), rights)
    }

    fn lacking_on(config: &Config, (kind, name): (&str, &str), rights: &[Right]) -> String {
        let server = config.brokers.first().map_or("", String::as_str);
        let operations = rights.iter().map(|right| right.operation());
        let operations: Vec<String> = operations
            .map(|operation| format!("--operation {operation}"))
            .collect();
        let names = Self::names(rights);
        format!(
            "this user has no {names} on the {kind} {name}; who administers Kafka gives it: \
             kafka-acls.sh --bootstrap-server {server} --add --allow-principal {} {} --{kind} {name}",
            principal(config),
            operations.join(" ")
        )
    }
}

/// Whom brokers take this program for, quoted for a shell.
fn principal(config: &Config) -> String {
    let name = match (&config.login, config.security) {
        (Some(login), _) => login.user.as_str(),
        (None, Security::Ssl) if config.cert_file.is_some() => "SUBJECT-OF-CERT_FILE",
        (None, _) => "ANONYMOUS",
    };
    format!("'User:{}'", name.replace('\'', r"'\''"))
}

/// Tries what may be done with topics.
pub(crate) struct Rights<'a> {
    pub(crate) config: &'a Config,
    pub(crate) told: &'a Told,
    pub(crate) admin: &'a AdminClient<Told>,
    pub(crate) runtime: &'a Handle,
}

impl Rights<'_> {
    /// A line for each right of these that is missing or could not be tried, or one that they are there. The
    /// topic is there, and seen: who found it has described it and read its settings. Blocks.
    pub(crate) fn check(&self, what: &str, topic: &str, rights: &[Right]) -> Vec<Check> {
        let mut checks = Vec::new();
        let mut held = Vec::new();
        for right in rights {
            let tried = match right {
                Right::Read => self.read(topic),
                Right::Write => self.write(topic),
                Right::Delete => self.delete(topic),
                Right::Create | Right::Describe | Right::DescribeConfigs => continue,
            };
            let advice = match tried {
                Ok(()) => {
                    held.push(*right);
                    continue;
                }
                Err(error) => match error.rdkafka_error_code() {
                    Some(Code::TopicAuthorizationFailed) => {
                        Right::lacking(self.config, topic, &[*right])
                    }
                    _ => format!(
                        "{} could not be tried: {}",
                        right.name(),
                        errors::text(&error)
                    ),
                },
            };
            checks.push(Check::bad(what, advice));
        }
        // Who reads names a group.
        if rights.contains(&Right::Read) && self.is_group_refused(topic) {
            let on = ("group", GROUP);
            let advice = Right::lacking_on(self.config, on, &[Right::Describe]);
            checks.push(Check::bad(what, advice));
        }
        if checks.is_empty() {
            checks.push(Check::good(what, Right::names(&held)));
        }
        checks
    }

    /// Whether the group that consumers name is refused: they look for its coordinator. That there is none
    /// does not hinder them.
    fn is_group_refused(&self, topic: &str) -> bool {
        let Ok(consumer) = make_consumer(self.config, &self.told.of_another()) else {
            return false;
        };
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, 0);
        if consumer.committed_offsets(list, ASK).is_ok() {
            return false;
        }
        let mut told = std::iter::from_fn(|| consumer.poll(TOLD_WITHIN)).take(TOLD_MAX);
        told.any(|told| {
            let code = told.err().and_then(|error| error.rdkafka_error_code());
            code == Some(Code::GroupAuthorizationFailed)
        })
    }

    /// Reads at the end of the first partition, where nothing is.
    fn read(&self, topic: &str) -> Result<(), KafkaError> {
        let mut settings = consumer(self.config).map_err(KafkaError::ClientCreation)?;
        settings.set("enable.partition.eof", "true");
        let consumer: BaseConsumer<Told> = settings.create_with_context(self.told.of_another())?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, 0, Offset::End)?;
        consumer.assign(&list)?;
        let deadline = Instant::now() + ASK;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match consumer.poll(left) {
                // Somebody has just written.
                Some(Ok(_)) | Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Err(error))
                    if error.rdkafka_error_code() == Some(Code::TopicAuthorizationFailed) =>
                {
                    return Err(error);
                }
                // Of a connection, for which another one follows, or of the group.
                Some(Err(_)) => {}
                None => return Err(KafkaError::MessageConsumption(Code::OperationTimedOut)),
            }
        }
    }

    /// Gives the first partition a message that it can not take.
    fn write(&self, topic: &str) -> Result<(), KafkaError> {
        let mut settings = base(self.config).map_err(KafkaError::ClientCreation)?;
        settings
            .set("acks", ACKS_REFUSED)
            .set("message.timeout.ms", ASK.as_millis().to_string());
        let producer: FutureProducer<Told> = settings.create_with_context(self.told.clone())?;
        let record: FutureRecord<'_, (), [u8]> = FutureRecord::to(topic).partition(0).payload(&[]);
        let sent = self.runtime.block_on(producer.send(record, ASK));
        match sent.map_err(|(error, _)| error) {
            Err(error) if error.rdkafka_error_code() != Some(Code::InvalidRequiredAcks) => {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Deletes what lies before the first offset that there can be.
    fn delete(&self, topic: &str) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, 0, Offset::Offset(0))?;
        let options = AdminOptions::new()
            .request_timeout(Some(ASK))
            .operation_timeout(Some(ASK));
        let asked = self.admin.delete_records(&list, &options);
        let answer = self.runtime.block_on(asked)?;
        let answers = answer.elements();
        let refused = answers.iter().find_map(|element| element.error().err());
        match refused {
            // A topic whose settings do not let anybody delete, which is told with them.
            Some(error) if error.rdkafka_error_code() != Some(Code::PolicyViolation) => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_who_is_given_what() {
        let rights = [Right::Read, Right::DescribeConfigs];
        for (uri, who) in [
            ("kafka://k1:9092", "'User:ANONYMOUS'"),
            (
                "kafka://o'neil:secret@k1:9092?security=sasl_ssl",
                r"'User:o'\''neil'",
            ),
            (
                "kafka://k1:9092?security=ssl&cert_file=/c&key_file=/k",
                "'User:SUBJECT-OF-CERT_FILE'",
            ),
        ] {
            let config = Config::parse(uri).expect("a URI");
            let said = Right::lacking(&config, "gb6.eu.log", &rights);
            let command = format!(
                "kafka-acls.sh --bootstrap-server k1:9092 --add --allow-principal {who} \
                 --operation Read --operation DescribeConfigs --topic gb6.eu.log"
            );
            assert!(said.contains(&command), "{said}");
            assert!(said.contains("READ, DESCRIBE_CONFIGS"), "{said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }
}
