//! Names of topics' metrics as boards made for kafka_exporter know them.

use std::fmt::Write as _;

/// Writes topics: name, partition, first offset kept, high watermark; in order of the names.
pub(super) fn topics(lines: &[(String, u32, u64, u64)], out: &mut String) {
    let head = |out: &mut String, name: &str, help: &str| {
        // Writing into a String does not fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
    };
    let name = "kafka_topic_partitions";
    head(out, name, "Partitions of the topic");
    for topic in lines.chunk_by(|one, other| one.0 == other.0) {
        let _ = writeln!(out, "{name}{{topic=\"{}\"}} {}", topic[0].0, topic.len());
    }
    type Column = (&'static str, &'static str, fn(&(String, u32, u64, u64)) -> u64);
    let columns: [Column; 2] = [
        ("kafka_topic_partition_current_offset", "Offset that the next readable record gets", |line| line.3),
        ("kafka_topic_partition_oldest_offset", "First offset kept", |line| line.2),
    ];
    for (name, help, value) in columns {
        head(out, name, help);
        for line in lines {
            let _ = writeln!(out, "{name}{{topic=\"{}\",partition=\"{}\"}} {}", line.0, line.1, value(line));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn topics_are_told_by_the_names_that_boards_know() {
        let lines = [("a".to_owned(), 0, 1, 5), ("a".to_owned(), 1, 0, 0), ("b".to_owned(), 0, 0, 2)];
        let mut text = String::new();
        super::topics(&lines, &mut text);
        for line in [
            "kafka_topic_partitions{topic=\"a\"} 2",
            "kafka_topic_partition_current_offset{topic=\"a\",partition=\"0\"} 5",
            "kafka_topic_partition_oldest_offset{topic=\"a\",partition=\"0\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
    }
}
