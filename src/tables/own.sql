WITH trusted AS (SELECT r.oid FROM pg_roles r WHERE r.rolsuper OR r.oid = $2),
own AS (
    SELECT c.oid, c.oid::regclass::text AS name, c.relowner, c.relacl,
           c.relrowsecurity OR c.relforcerowsecurity AS has_policies
    FROM unnest($1::int8[]) AS t (oid) JOIN pg_class c ON c.oid = t.oid::oid),
members AS (
    SELECT p.oid FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
    JOIN pg_extension x ON d.refclassid = 'pg_extension'::regclass AND x.oid = d.refobjid AND d.deptype = 'e'
    WHERE x.extname = 'rgrid_heartbeat' AND p.proname = 'rgrid_replicated'),
given AS (
    SELECT o.name, a.grantee, string_agg(DISTINCT a.privilege_type, ', ') AS rights
    FROM own o, LATERAL (SELECT * FROM aclexplode(o.relacl) UNION ALL
                         SELECT e.* FROM pg_attribute c, aclexplode(c.attacl) e WHERE c.attrelid = o.oid) a
    WHERE a.grantee <> o.relowner AND NOT EXISTS (SELECT FROM trusted r WHERE r.oid = a.grantee)
      AND a.privilege_type <> 'SELECT'
      AND NOT (o.oid = $3 AND a.privilege_type IN ('INSERT', 'UPDATE', 'DELETE'))
    GROUP BY o.name, a.grantee),
keys AS (
    SELECT k.conrelid::regclass AS place, k.conname, o.name, o.oid, k.conrelid IN (SELECT w.oid FROM own w) AS is_ours,
           c.relowner, EXISTS (
               SELECT FROM unnest(k.conkey) n JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = n
               JOIN pg_type t ON t.oid = a.atttypid
               WHERE coalesce(nullif(t.typbasetype, 0), t.oid) >= 16384) AS is_strange
    FROM pg_constraint k JOIN own o ON o.oid IN (k.confrelid, k.conrelid) JOIN pg_class c ON c.oid = k.conrelid
    WHERE k.contype = 'f' AND k.conparentid = 0)
SELECT f.statement, f.what, f.step = 1 FROM (
    SELECT 1, format('ALTER TABLE %s OWNER TO %s', o.name, $2::regrole),
           format('owner %I of %s', pg_get_userbyid(o.relowner), o.name)
    FROM own o WHERE o.relowner <> $2 AND NOT EXISTS (SELECT FROM trusted r WHERE r.oid = o.relowner)
    UNION ALL
    SELECT 2, format('ALTER TABLE %s %s', o.name,
                     string_agg(format('DISABLE TRIGGER %I', t.tgname), ', ' ORDER BY t.tgname)),
           format('trigger %s of %s', string_agg(quote_ident(t.tgname), ', ' ORDER BY t.tgname), o.name)
    FROM own o JOIN pg_trigger t ON t.tgrelid = o.oid WHERE NOT t.tgisinternal AND t.tgenabled <> 'D'
      AND t.tgfoid NOT IN (SELECT m.oid FROM members m)
    GROUP BY o.name
    UNION ALL
    -- PostgreSQL refuses ON CONFLICT at a table with rules, also with disabled ones.
    SELECT 3, format('DROP RULE %I ON %s', r.rulename, o.name), format('rule %I of %s', r.rulename, o.name)
    FROM own o JOIN pg_rewrite r ON r.ev_class = o.oid
    UNION ALL
    SELECT 4, format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', o.name),
           format('row-level security of %s', o.name)
    FROM own o WHERE o.has_policies
    UNION ALL
    SELECT 5, CASE WHEN p.relkind <> 'p' THEN format('ALTER TABLE %s NO INHERIT %s', c.oid::regclass, p.oid::regclass)
                   ELSE format('ALTER TABLE %s DETACH PARTITION %s%s', p.oid::regclass, c.oid::regclass,
                               CASE WHEN i.inhdetachpending THEN ' FINALIZE' ELSE '' END) END,
           format('child %s of %s', c.oid::regclass, p.oid::regclass)
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
    WHERE EXISTS (SELECT FROM own o WHERE o.oid IN (i.inhparent, i.inhrelid))
    UNION ALL
    SELECT 6, format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I', k.place, k.conname),
           format('foreign key %I between %s and %s', k.conname, k.place, k.name)
    FROM keys k WHERE k.is_ours OR NOT EXISTS (SELECT FROM trusted r WHERE r.oid = k.relowner)
                                   AND (k.oid <> $3 OR k.is_strange)
    UNION ALL
    SELECT 7, format(CASE WHEN k.oid IS NULL THEN 'DROP INDEX %1$s' ELSE 'ALTER TABLE %2$s DROP CONSTRAINT %3$I' END,
                     i.indexrelid::regclass, o.name, k.conname),
           format('index %s of %s', i.indexrelid::regclass, o.name)
    FROM unnest($4::int8[]) AS x (oid) JOIN pg_index i ON i.indexrelid = x.oid::oid JOIN own o ON o.oid = i.indrelid
    LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = o.oid
    UNION ALL
    SELECT 8, format('ALTER TABLE %s ALTER %I TYPE %s%s', o.name, a.attname, format_type(t.typbasetype, t.typtypmod),
                     CASE a.attname WHEN 'worker_id' THEN ' COLLATE "C"' ELSE '' END),
           format('type of column %I of %s', a.attname, o.name)
    FROM own o JOIN pg_attribute a ON a.attrelid = o.oid JOIN pg_type t ON t.oid = a.atttypid
    WHERE t.oid >= 16384 AND t.typbasetype BETWEEN 1 AND 16383
    UNION ALL
    SELECT 9, format('DROP STATISTICS %I.%I', n.nspname, s.stxname), format('statistics %I of %s', s.stxname, o.name)
    FROM own o JOIN pg_statistic_ext s ON s.stxrelid = o.oid JOIN pg_namespace n ON n.oid = s.stxnamespace
    WHERE s.stxexprs IS NOT NULL
    UNION ALL
    SELECT 10, format('REVOKE %s ON %s FROM %s CASCADE', g.rights, g.name, r.role),
           format('%s of %s on %s', g.rights, r.role, g.name)
    FROM given g, LATERAL (SELECT CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END AS role) r
    ) AS f (step, statement, what)
ORDER BY f.step, f.what
