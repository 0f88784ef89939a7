"""What Django's models have no words for: announcements of change, immutable content, promotion within a model."""

from django.db import migrations

REVISION = """
CREATE SEQUENCE nopenai_revision;
SELECT nextval('nopenai_revision');

-- Bumps the revision and tells who listens, once a statement and only when a row really changed.
-- Arguments: the payload, then the columns whose change interests nobody who listens, separated by commas.
--
-- A sequence moves at once, its transaction becomes visible later. So that a reader can tell that the revision it
-- sees may not be wholly visible yet, a writer holds a shared advisory lock from before the bump to its commit
-- (see registry.selectors.catalogue_load).
CREATE FUNCTION nopenai_announce() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ignored text[] := string_to_array(coalesce(TG_ARGV[1], ''), ',');
    changed boolean;
BEGIN
    IF TG_OP = 'INSERT' THEN
        SELECT EXISTS (SELECT FROM new_rows) INTO changed;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT EXISTS (SELECT FROM old_rows) INTO changed;
    ELSE
        SELECT EXISTS (
            SELECT to_jsonb(n) - ignored FROM new_rows n EXCEPT SELECT to_jsonb(o) - ignored FROM old_rows o
        ) INTO changed;
    END IF;
    IF changed THEN
        IF TG_ARGV[0] <> 'desired' THEN
            PERFORM pg_advisory_xact_lock_shared(hashtext('nopenai'), hashtext('revision'));
            PERFORM nextval('nopenai_revision');
        END IF;
        PERFORM pg_notify('nopenai', TG_ARGV[0]);
    END IF;
    RETURN NULL;
END
$$;
"""

REVISION_REVERSE = """
DROP FUNCTION nopenai_announce();
DROP SEQUENCE nopenai_revision;
"""


def announce(table: str, payload: str, ignored: tuple[str, ...] = ()) -> migrations.RunSQL:
    """Triggers that announce every change of ``table``, except of the columns in ``ignored`` alone."""
    arguments = f"'{payload}', '{','.join(ignored)}'"
    rows = {
        "insert": "REFERENCING NEW TABLE AS new_rows",
        "update": "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
        "delete": "REFERENCING OLD TABLE AS old_rows",
    }
    return migrations.RunSQL(
        [
            f"CREATE TRIGGER {table}_announce_{event} AFTER {event.upper()} ON {table} {referencing} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION nopenai_announce({arguments})"
            for event, referencing in rows.items()
        ],
        [f"DROP TRIGGER {table}_announce_{event} ON {table}" for event in rows],
    )


IMMUTABLE = """
CREATE FUNCTION registry_version_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    name text;
BEGIN
    SELECT m.name INTO name FROM registry_model m WHERE m.id = OLD.model_id;
    RAISE EXCEPTION USING
        ERRCODE = 'check_violation',
        CONSTRAINT = 'registry_version_immutable',
        TABLE = 'registry_version',
        MESSAGE = format('version %s.%s.%s of %s is immutable: its content can''t change; other content is a new version',
                         OLD.major, OLD.minor, OLD.patch, name);
END
$$;

CREATE TRIGGER registry_version_immutable BEFORE UPDATE ON registry_version FOR EACH ROW
WHEN (
    OLD.header_digest <> '' AND (
        (OLD.header_digest, OLD.size_bytes, OLD.architecture, OLD.quantization)
            IS DISTINCT FROM (NEW.header_digest, NEW.size_bytes, NEW.architecture, NEW.quantization)
        OR OLD.parameter_count IS DISTINCT FROM NEW.parameter_count
        OR OLD.context_length IS DISTINCT FROM NEW.context_length
        OR (OLD.sha256 <> '' AND OLD.sha256 <> NEW.sha256)
    )
)
EXECUTE FUNCTION registry_version_refuse_change();
"""

IMMUTABLE_REVERSE = """
DROP TRIGGER registry_version_immutable ON registry_version;
DROP FUNCTION registry_version_refuse_change();
"""

# Deferred, because a model and its first version refer to each other.
PROMOTED_OF_THIS_MODEL = """
ALTER TABLE registry_version ADD CONSTRAINT registry_version_of_model UNIQUE (model_id, id);
ALTER TABLE registry_model ADD CONSTRAINT registry_model_promoted_is_own
    FOREIGN KEY (id, promoted_id) REFERENCES registry_version (model_id, id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE registry_version ADD CONSTRAINT registry_version_lists
    CHECK (jsonb_typeof(files) = 'array' AND jsonb_typeof(capabilities) = 'array');
ALTER TABLE registry_model ADD CONSTRAINT registry_model_lists CHECK (jsonb_typeof(extra_capabilities) = 'array');
"""

PROMOTED_OF_THIS_MODEL_REVERSE = """
ALTER TABLE registry_model DROP CONSTRAINT registry_model_lists;
ALTER TABLE registry_version DROP CONSTRAINT registry_version_lists;
ALTER TABLE registry_model DROP CONSTRAINT registry_model_promoted_is_own;
ALTER TABLE registry_version DROP CONSTRAINT registry_version_of_model;
"""


class Migration(migrations.Migration):
    dependencies = [("registry", "0001_initial")]

    operations = [
        migrations.RunSQL(REVISION, REVISION_REVERSE),
        migrations.RunSQL(IMMUTABLE, IMMUTABLE_REVERSE),
        migrations.RunSQL(PROMOTED_OF_THIS_MODEL, PROMOTED_OF_THIS_MODEL_REVERSE),
        announce("registry_model", "catalogue"),
        announce(
            "registry_version",
            "catalogue",
            ignored=("health_checked_at", "modified_ns", "sha256", "hashed_modified_ns", "source"),
        ),
        # What a supervisor observes concerns no other supervisor; what operators want does.
        announce(
            "registry_replica",
            "desired",
            ignored=("observed", "reason", "pid", "restarts", "observed_at"),
        ),
    ]
