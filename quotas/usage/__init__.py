"""What was used, by whom and of what: counted by the gateways, kept by the hour, then by the day and the month."""
