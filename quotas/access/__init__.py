"""Tenants and their API keys: made, limited, rotated, revoked; over REST, in the admin and by command."""
