//! The topics of a region: made where they are missing, and refused where they promise less than was
//! asked for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gb6_core_ports::{Check, StoreError};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::MetadataTopic;
use tokio::runtime::Handle;

use crate::client::{ASK, LogConsumer, Told, base, largest_message, make_consumer};
use crate::config::Config;
use crate::errors;
use crate::rights::{OF_EVENTS, OF_LOG, Right, Rights};
use crate::speaks;

/// How long a new topic may take until all its partitions have leaders.
const CREATED_WITHIN: Duration = Duration::from_secs(15);
/// How long what one broker knows of a topic takes to the others, where it was not made just now.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);
/// Errors of connections that are looked at.
const TOLD_MAX: usize = 100;

/// Something of a topic that is not as it must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The setting.
    pub setting: &'static str,
    /// What it is.
    pub found: String,
    /// What it must be.
    pub wanted: String,
    /// The command, or the change, that mends it.
    pub mend: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} is {}, and must be {}: {}",
            self.setting, self.found, self.wanted, self.mend
        )
    }
}

/// What is known of a topic.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Found {
    partitions: usize,
    /// The fewest copies that a partition has.
    replication: usize,
    settings: BTreeMap<String, String>,
}

impl Found {
    /// A setting that is a number; 0 where it was not told.
    fn number(&self, setting: &str) -> i64 {
        let value = self.settings.get(setting);
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    }
}

/// What there must be of a topic, and what is asked for where it is missing.
struct Wanted<'a> {
    topic: &'a str,
    partitions: u32,
    settings: &'a [(&'static str, String)],
    /// What is done with it.
    rights: &'a [Right],
}

/// The administrator's side of a cluster.
pub(crate) struct Topics {
    pub(crate) admin: AdminClient<Told>,
    /// What asks about topics. Not the administrator's client: to a producer, which that one is, brokers
    /// may answer by making the topic that is asked for, with settings of their own.
    asks: LogConsumer,
    config: Config,
    runtime: Handle,
}

impl Topics {
    pub(crate) fn new(config: &Config, told: &Told, runtime: Handle) -> Result<Self, StoreError> {
        let made = base(config).and_then(|settings| {
            settings
                .create_with_context(told.clone())
                .map_err(|error| errors::text(&error))
        });
        let admin = made.map_err(|cause| StoreError::Unavailable {
            cause: format!("a Kafka client can not be made: {cause}"),
        })?;
        Ok(Self {
            admin,
            asks: make_consumer(config, told)?,
            config: config.clone(),
            runtime,
        })
    }

    /// Makes the topic of the logs of `shards` shards if it is missing, and refuses it where it is not
    /// as it must be.
    pub(crate) fn ensure_log(&self, topic: &str, shards: u32) -> Result<(), StoreError> {
        let found = self.made(&Wanted {
            topic,
            partitions: shards,
            settings: &self.log_settings(),
            rights: OF_LOG,
        })?;
        refused(
            "hold a log",
            topic,
            &findings(&self.config, topic, shards, &found),
        )
    }

    /// Makes the topic of events if it is missing, and refuses one that does not take every event, or keeps it
    /// less well than asked for. How long events stay there is its owner's to say.
    pub(crate) fn ensure_events(&self, topic: &str, partitions: u32) -> Result<(), StoreError> {
        let found = self.made(&Wanted {
            topic,
            partitions,
            settings: &self.events_settings(),
            rights: OF_EVENTS,
        })?;
        refused(
            "keep events",
            topic,
            &weaknesses(&self.config, topic, &found),
        )
    }

    /// The settings of a topic of logs that is made here.
    fn log_settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = self.events_settings();
        let of_log = [
            ("cleanup.policy", "delete"),
            ("retention.ms", "-1"),
            ("retention.bytes", "-1"),
            ("compression.type", "producer"),
            // What was deleted leaves the disk with its segment: small ones, that do not
            // stay open.
            ("segment.bytes", "67108864"),
            ("segment.ms", "3600000"),
            // An owner's clock that is ahead must not make brokers refuse its batches.
            ("message.timestamp.type", "LogAppendTime"),
        ];
        settings.extend(of_log.map(|(name, value)| (name, value.to_owned())));
        settings
    }

    /// Those of a topic of events.
    fn events_settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("min.insync.replicas", self.config.min_insync.to_string()),
            ("max.message.bytes", largest_message().to_string()),
            ("unclean.leader.election.enable", "false".to_owned()),
        ]
    }

    /// What is known of a topic, which is made if it is missing.
    fn made(&self, wanted: &Wanted<'_>) -> Result<Found, StoreError> {
        match self.look(wanted, CREATED_WITHIN)? {
            Some(found) => Ok(found),
            None => self.create(wanted),
        }
    }

    fn create(&self, wanted: &Wanted<'_>) -> Result<Found, StoreError> {
        let Wanted {
            topic, partitions, ..
        } = *wanted;
        match self.ask_to_create(wanted, false)? {
            Ok(()) => tracing::info!(topic, partitions, "made the topic"),
            // Another node was first.
            Err(Code::TopicAlreadyExists) => {}
            Err(code) => {
                return Err(StoreError::Unavailable {
                    cause: self.not_made(topic, code),
                });
            }
        }
        let deadline = Instant::now() + CREATED_WITHIN;
        loop {
            if let Some(found) = self.look(wanted, CREATED_WITHIN)?
                && found.partitions == partitions as usize
            {
                return Ok(found);
            }
            if Instant::now() > deadline {
                return Err(StoreError::Unavailable {
                    cause: format!("the new topic {topic} has no leaders after {CREATED_WITHIN:?}"),
                });
            }
            std::thread::sleep(POLL);
        }
    }

    /// Asks for a topic; with `only_look` it is not made.
    fn ask_to_create(
        &self,
        wanted: &Wanted<'_>,
        only_look: bool,
    ) -> Result<Result<(), Code>, StoreError> {
        let replication = TopicReplication::Fixed(i32::from(self.config.replication));
        let mut new = NewTopic::new(wanted.topic, wanted.partitions as i32, replication);
        for (name, value) in wanted.settings {
            new = new.set(name, value);
        }
        let options = AdminOptions::new()
            .request_timeout(Some(ASK))
            .operation_timeout(Some(ASK))
            .validate_only(only_look);
        let created = self
            .runtime
            .block_on(self.admin.create_topics([&new], &options))
            .map_err(|error| errors::unavailable("the topic could not be made", &error))?;
        let mut answers = created.into_iter();
        let answer = answers
            .next()
            .unwrap_or(Err((String::new(), Code::Unknown)));
        Ok(answer.map(|_| ()).map_err(|(_, code)| code))
    }

    /// Why a topic can not be made, and what to do.
    fn not_made(&self, topic: &str, code: Code) -> String {
        match code {
            Code::TopicAuthorizationFailed => Right::lacking(&self.config, topic, &[Right::Create]),
            code => format!(
                "the topic {topic} could not be made with {} copies: {code}; are there as many brokers? \
                 (one copy only: replication=1&min_insync=1)",
                self.config.replication
            ),
        }
    }

    /// What is known of a topic; `None` where there is none. All brokers know it within `patience`.
    fn look(&self, wanted: &Wanted<'_>, patience: Duration) -> Result<Option<Found>, StoreError> {
        let topic = wanted.topic;
        let Some(found) = self.partitions(wanted)? else {
            return Ok(None);
        };
        let deadline = Instant::now() + patience;
        loop {
            let settings = self.settings(topic)?;
            if !settings.is_empty() {
                return Ok(Some(Found { settings, ..found }));
            }
            // Of a new topic not every broker knows: who was asked for its settings may not yet. Who may
            // not read them is told none either; the client does not tell that error.
            if Instant::now() > deadline {
                return Err(StoreError::Unavailable {
                    cause: Right::lacking(&self.config, topic, &[Right::DescribeConfigs]),
                });
            }
            std::thread::sleep(POLL);
        }
    }

    /// The partitions and copies of a topic; `None` where there is none.
    fn partitions(&self, wanted: &Wanted<'_>) -> Result<Option<Found>, StoreError> {
        let topic = wanted.topic;
        let metadata = self
            .asks
            .fetch_metadata(Some(topic), ASK)
            .map_err(|error| self.silence(&error))?;
        let known = metadata.topics().iter().find(|found| found.name() == topic);
        let Some(known) = known else { return Ok(None) };
        match known.error().map(Code::from) {
            None => {}
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::LeaderNotAvailable) => {
                return Ok(None);
            }
            // Every other right brings this one with it: there is none of them.
            Some(Code::TopicAuthorizationFailed) => {
                let rights = [wanted.rights, &[Right::Create]].concat();
                return Err(StoreError::Unavailable {
                    cause: Right::lacking(&self.config, topic, &rights),
                });
            }
            Some(code) => {
                let error = KafkaError::MetadataFetch(code);
                return Err(errors::unavailable(
                    "the topic can not be looked at",
                    &error,
                ));
            }
        }
        Ok(Some(Found {
            partitions: known.partitions().len(),
            replication: fewest_copies(known),
            settings: BTreeMap::new(),
        }))
    }

    /// What it means that no broker answers. What a connection failed of was told meanwhile, and is the
    /// better reason.
    fn silence(&self, error: &KafkaError) -> StoreError {
        let told = std::iter::from_fn(|| self.asks.poll(POLL)).take(TOLD_MAX);
        let mut reasons = told.filter_map(Result::err).filter(|error| {
            matches!(
                error.rdkafka_error_code(),
                Some(Code::Authentication | Code::SSL | Code::Resolve)
            )
        });
        let reason = reasons.next();
        errors::unavailable("no Kafka broker answers", reason.as_ref().unwrap_or(error))
    }

    /// The topic's settings; none where who was asked knows no such topic.
    fn settings(&self, topic: &str) -> Result<BTreeMap<String, String>, StoreError> {
        let options = AdminOptions::new().request_timeout(Some(ASK));
        let asked = [ResourceSpecifier::Topic(topic)];
        let described = self
            .runtime
            .block_on(self.admin.describe_configs(&asked, &options))
            .map_err(|error| errors::unavailable("the topic's settings can not be read", &error))?;
        let mut settings = BTreeMap::new();
        for resource in described {
            let resource = match resource {
                Ok(resource) => resource,
                Err(Code::UnknownTopicOrPartition) => continue,
                Err(code) => {
                    let error = KafkaError::AdminOp(code);
                    let what = "the topic's settings can not be read";
                    return Err(errors::unavailable(what, &error));
                }
            };
            for entry in resource.entries {
                settings.insert(entry.name, entry.value.unwrap_or_default());
            }
        }
        Ok(settings)
    }

    /// Looks at everything that the logs of a region need of this cluster, and changes nothing.
    pub(crate) fn check_log(&self, region: &str, shards: u32) -> Vec<Check> {
        let topic = self.config.log_topic(region);
        let wanted = Wanted {
            topic: &topic,
            partitions: shards,
            settings: &self.log_settings(),
            rights: OF_LOG,
        };
        self.check(&wanted, |found| {
            findings(&self.config, &topic, shards, found)
        })
    }

    /// Looks at everything that the events of a region need of this cluster, and changes nothing.
    pub(crate) fn check_events(&self, region: &str, partitions: u32) -> Vec<Check> {
        let topic = self.config.events_topic(region);
        let wanted = Wanted {
            topic: &topic,
            partitions,
            settings: &self.events_settings(),
            rights: OF_EVENTS,
        };
        self.check(&wanted, |found| weaknesses(&self.config, &topic, found))
    }

    /// Looks at the brokers, at what `look` finds bad in a topic, and at what may be done with it.
    fn check(&self, wanted: &Wanted<'_>, look: impl Fn(&Found) -> Vec<Finding>) -> Vec<Check> {
        let at = format!("Kafka at {}", self.config.brokers.join(","));
        let mut checks = Vec::new();
        let metadata = match self.asks.fetch_metadata(None, ASK) {
            Ok(metadata) => metadata,
            Err(error) => return vec![Check::bad(at, self.silence(&error).to_string())],
        };
        let brokers = metadata.brokers().len();
        let what = format!("{at}: brokers");
        checks.push(if brokers >= usize::from(self.config.replication) {
            Check::good(what, format!("{brokers} of {}", self.config.replication))
        } else {
            let advice = format!(
                "{brokers} brokers can not hold replication={} copies: start more, or ask for fewer \
                 (one copy only: replication=1&min_insync=1)",
                self.config.replication
            );
            Check::bad(what, advice)
        });
        checks.push(speaks::check(&self.config, format!("{at}: version")));
        let what = format!("{at}: topic {}", wanted.topic);
        match self.look(wanted, KNOWN_WITHIN) {
            Ok(None) => {
                checks.push(self.check_create(wanted, what));
                return checks;
            }
            Err(error) => checks.push(Check::bad(what, error.to_string())),
            Ok(Some(found)) => {
                let findings = look(&found);
                if findings.is_empty() {
                    let Found {
                        partitions,
                        replication,
                        ..
                    } = found;
                    let good = format!("{partitions} partitions, {replication} copies");
                    checks.push(Check::good(what.clone(), good));
                }
                for finding in findings {
                    checks.push(Check::bad(what.clone(), finding.to_string()));
                }
            }
        }
        // Of a topic that may not be seen nothing else may be done, which has been said.
        if let Ok(Some(_)) = self.partitions(wanted) {
            let what = format!("{at}: permissions on topic {}", wanted.topic);
            let rights = Rights {
                config: &self.config,
                told: self.asks.context(),
                admin: &self.admin,
                runtime: &self.runtime,
            };
            checks.extend(rights.check(&what, wanted.topic, wanted.rights));
        }
        checks
    }

    /// Whether a topic that is not there could be made, which is not done.
    fn check_create(&self, wanted: &Wanted<'_>, what: String) -> Check {
        match self.ask_to_create(wanted, true) {
            // That there are too few brokers is said already.
            Ok(Ok(()) | Err(Code::TopicAlreadyExists | Code::InvalidReplicationFactor)) => {
                let later = Right::names(wanted.rights);
                Check::good(
                    what,
                    format!(
                        "not there yet: made at the first start, which this user may do; whether it has \
                         {later} is seen when the topic is there: check again then"
                    ),
                )
            }
            Ok(Err(code)) => Check::bad(what, self.not_made(wanted.topic, code)),
            Err(error) => Check::bad(what, error.to_string()),
        }
    }
}

/// The command that sets something of a topic.
fn alter(config: &Config, topic: &str, setting: &str, value: &str) -> String {
    let server = config.brokers.first().map_or("", String::as_str);
    format!(
        "kafka-configs.sh --bootstrap-server {server} --alter --entity-type topics \
         --entity-name {topic} --add-config {setting}={value}"
    )
}

fn fewest_copies(topic: &MetadataTopic) -> usize {
    let copies = topic.partitions().iter().map(|p| p.replicas().len());
    copies.min().unwrap_or(0)
}

/// The refusal of a topic that has `findings`.
fn refused(purpose: &str, topic: &str, findings: &[Finding]) -> Result<(), StoreError> {
    if findings.is_empty() {
        return Ok(());
    }
    let findings: Vec<String> = findings.iter().map(Finding::to_string).collect();
    Err(StoreError::Conflict {
        what: format!(
            "the topic {topic} can not {purpose}: {}",
            findings.join("; ")
        ),
    })
}

/// A setting of a topic that is not as it must be.
fn finding(found: &Found, setting: &'static str, wanted: String, mend: String) -> Finding {
    let is = found.settings.get(setting).map_or("", String::as_str);
    Finding {
        setting,
        found: match is {
            "" => "not told".to_owned(),
            is => is.to_owned(),
        },
        wanted,
        mend,
    }
}

/// What is wrong with a topic for the logs of `shards` shards.
pub(crate) fn findings(config: &Config, topic: &str, shards: u32, found: &Found) -> Vec<Finding> {
    let server = config.brokers.first().map_or("", String::as_str);
    let mut wrong = Vec::new();
    if found.partitions != shards as usize {
        let mend = match found.partitions < shards as usize {
            true => format!(
                "kafka-topics.sh --bootstrap-server {server} --alter --topic {topic} --partitions {shards}"
            ),
            false => format!(
                "a topic never gets fewer partitions: give the region {} shards, or another prefix",
                found.partitions
            ),
        };
        wrong.push(Finding {
            setting: "the number of partitions",
            found: found.partitions.to_string(),
            wanted: format!("{shards}, one for each shard"),
            mend,
        });
    }
    wrong.extend(weaknesses(config, topic, found));
    for (setting, good) in [
        ("cleanup.policy", &["delete", ""][..]),
        ("retention.ms", &["-1"]),
        ("retention.bytes", &["-1"]),
        ("compression.type", &["producer", "uncompressed"]),
    ] {
        let is = found.settings.get(setting).map_or("", String::as_str);
        if !good.contains(&is) {
            let wanted = good.first().copied().unwrap_or_default();
            let mend = alter(config, topic, setting, wanted);
            wrong.push(finding(found, setting, wanted.to_owned(), mend));
        }
    }
    wrong
}

/// In what a topic keeps less than was asked for: it loses what was acknowledged, or does not take it.
fn weaknesses(config: &Config, topic: &str, found: &Found) -> Vec<Finding> {
    let server = config.brokers.first().map_or("", String::as_str);
    let mut wrong = Vec::new();
    if found.replication < usize::from(config.replication) {
        let mend = format!(
            "kafka-reassign-partitions.sh --bootstrap-server {server} with {} brokers for each partition of \
             {topic}, or ask for less: replication={}&min_insync={}",
            config.replication,
            found.replication.max(1),
            config.min_insync.min(found.replication.max(1) as u16)
        );
        wrong.push(Finding {
            setting: "the replication factor",
            found: found.replication.to_string(),
            wanted: format!("{} or more", config.replication),
            mend,
        });
    }
    for (setting, least) in [
        ("min.insync.replicas", usize::from(config.min_insync)),
        ("max.message.bytes", largest_message()),
    ] {
        if found.number(setting) < least as i64 {
            let mend = alter(config, topic, setting, &least.to_string());
            wrong.push(finding(found, setting, format!("{least} or more"), mend));
        }
    }
    let setting = "unclean.leader.election.enable";
    if found.settings.get(setting).map(String::as_str) != Some("false") {
        let mend = alter(config, topic, setting, "false");
        wrong.push(finding(found, setting, "false".to_owned(), mend));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Found {
        let settings = [
            ("min.insync.replicas", "2"),
            ("max.message.bytes", "8000000"),
            ("unclean.leader.election.enable", "false"),
            ("cleanup.policy", "delete"),
            ("retention.ms", "-1"),
            ("retention.bytes", "-1"),
            ("compression.type", "producer"),
        ];
        Found {
            partitions: 4,
            replication: 3,
            settings: settings
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        }
    }

    #[test]
    fn each_weakness_is_told_with_what_mends_it() {
        let config = Config::parse("kafka://k1:9092").expect("a URI");
        assert_eq!(findings(&config, "gb6.eu.log", 4, &found()), []);
        for (setting, value, mend) in [
            ("min.insync.replicas", "1", "min.insync.replicas=2"),
            ("max.message.bytes", "1048588", "max.message.bytes=4259840"),
            ("unclean.leader.election.enable", "true", "enable=false"),
            ("cleanup.policy", "compact", "cleanup.policy=delete"),
            ("cleanup.policy", "compact,delete", "cleanup.policy=delete"),
            ("retention.ms", "604800000", "retention.ms=-1"),
            ("retention.bytes", "1", "retention.bytes=-1"),
            ("compression.type", "gzip", "compression.type=producer"),
        ] {
            let mut weak = found();
            weak.settings.insert(setting.to_owned(), value.to_owned());
            let told = findings(&config, "gb6.eu.log", 4, &weak);
            assert_eq!(told.len(), 1, "{told:?}");
            let text = told[0].to_string();
            for part in [setting, value, mend, "--entity-name gb6.eu.log", "k1:9092"] {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
        for (shards, mend) in [(5, "--partitions 5"), (3, "give the region 4 shards")] {
            let told = findings(&config, "gb6.eu.log", shards, &found());
            assert!(told[0].to_string().contains(mend), "{told:?}");
        }
        let single = Found {
            replication: 1,
            ..found()
        };
        let told = findings(&config, "gb6.eu.log", 4, &single);
        assert!(
            told[0].mend.contains("replication=1&min_insync=1"),
            "{told:?}"
        );
    }
}
