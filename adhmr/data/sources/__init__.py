"""From what data sets' owners distribute to our shards: one file a data set or format, and what they have in common."""
