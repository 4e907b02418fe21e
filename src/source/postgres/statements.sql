-- Everything that the application made, as the statements that make it anew: [class, oid, rank,
-- statement] each, class 0 for what only belongs to the object with the oid. From rank 100 on they
-- come after the rows. Needs search_path = ''.
WITH member AS (
  SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
    OR deptype = 'i' AND classid IN ('pg_proc'::regclass, 'pg_cast'::regclass)
), ns AS (
  SELECT oid, nspname FROM pg_namespace WHERE nspname NOT IN ('pg_catalog', 'information_schema')
    AND nspname !~ '^pg_(toast|temp)'
), rel AS (
  SELECT c.*, format('%I.%I', n.nspname, c.relname) AS q, to_jsonb(c) AS j FROM pg_class c
    JOIN ns n ON n.oid = c.relnamespace WHERE c.relpersistence <> 't' AND NOT EXISTS (
      SELECT FROM member m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid)
), typ AS (
  SELECT t.*, format('%I.%I', n.nspname, t.typname) AS q FROM pg_type t
    JOIN ns n ON n.oid = t.typnamespace WHERE NOT EXISTS (
      SELECT FROM member m WHERE m.classid = 'pg_type'::regclass AND m.objid = t.oid)
), proc AS (
  SELECT p.*, format('%I.%I', n.nspname, p.proname) AS q,
      pg_get_function_identity_arguments(p.oid) AS args,
      CASE p.prokind WHEN 'a' THEN 'AGGREGATE' WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END AS kind
    FROM pg_proc p JOIN ns n ON n.oid = p.pronamespace WHERE NOT EXISTS (
      SELECT FROM member m WHERE m.classid = 'pg_proc'::regclass AND m.objid = p.oid)
), sequence AS (
  SELECT r.oid, r.q, concat(' INCREMENT BY ', s.seqincrement, ' MINVALUE ', s.seqmin, ' MAXVALUE ',
      s.seqmax, ' START WITH ', s.seqstart, ' CACHE ', s.seqcache,
      CASE WHEN s.seqcycle THEN ' CYCLE' ELSE ' NO CYCLE' END) AS options,
      format_type(s.seqtypid, NULL) AS type, r.relpersistence,
      d.deptype, d.refobjid AS owner, d.refobjsubid AS owner_column
    FROM rel r JOIN pg_sequence s ON s.seqrelid = r.oid
    LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = r.oid
      AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
), attribute AS (
  SELECT a.*, to_jsonb(a) AS j, format_type(a.atttypid, a.atttypmod)
      || CASE WHEN a.attcollation NOT IN (0, t.typcollation) THEN ' COLLATE ' || (
          SELECT format('%I.%I', cn.nspname, o.collname) FROM pg_collation o
            JOIN pg_namespace cn ON cn.oid = o.collnamespace WHERE o.oid = a.attcollation)
        ELSE '' END AS type,
      t.typstorage, pg_get_expr(d.adbin, d.adrelid) AS expression
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attnum > 0 AND NOT a.attisdropped
), con AS (
  SELECT c.*, r.q, r.relkind, r.relispartition, format('ALTER TABLE %s%s ADD CONSTRAINT %I %s',
      CASE WHEN c.contype = 'f' AND r.relkind = 'p' OR c.contype = 'c' THEN '' ELSE 'ONLY ' END,
      r.q, c.conname, pg_get_constraintdef(c.oid)) AS add
    FROM pg_constraint c JOIN rel r ON r.oid = c.conrelid
), tab AS (
  SELECT r.oid, format('CREATE %sTABLE %s (%s)%s%s%s%s',
      CASE r.relpersistence WHEN 'u' THEN 'UNLOGGED ' ELSE '' END, r.q,
      concat_ws(',', (SELECT string_agg(E'\n    ' || format('%I %s', a.attname, a.type)
          || CASE WHEN a.attgenerated <> '' THEN ' GENERATED ALWAYS AS (' || a.expression || ')'
                    || CASE a.attgenerated WHEN 's' THEN ' STORED' ELSE ' VIRTUAL' END
                  WHEN a.attidentity <> '' THEN format(' GENERATED %s AS IDENTITY (SEQUENCE NAME %s%s)',
                    CASE a.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END, s.q, s.options)
                  WHEN a.expression IS NOT NULL THEN ' DEFAULT ' || a.expression ELSE '' END
          -- From version 18 on these have names.
          || CASE WHEN a.attnotnull THEN coalesce((SELECT format(' CONSTRAINT %I NOT NULL%s', c.conname,
                CASE WHEN c.connoinherit THEN ' NO INHERIT' ELSE '' END) FROM pg_constraint c
              WHERE c.conrelid = r.oid AND c.contype = 'n' AND c.conkey = ARRAY[a.attnum]),
            ' NOT NULL') ELSE '' END, ',' ORDER BY a.attnum)
        FROM attribute a LEFT JOIN sequence s
          ON s.owner = r.oid AND s.owner_column = a.attnum AND s.deptype = 'i'
        WHERE a.attrelid = r.oid AND (a.attislocal OR r.relispartition)),
      (SELECT string_agg(format(E'\n    CONSTRAINT %I %s', c.conname, pg_get_constraintdef(c.oid)), ','
          ORDER BY c.conname) FROM con c WHERE c.conrelid = r.oid AND c.contype = 'c'
        AND c.convalidated AND (c.conislocal OR r.relispartition))),
      (SELECT E'\nINHERITS (' || string_agg(p.q, ', ' ORDER BY i.inhseqno) || ')'
        FROM pg_inherits i JOIN rel p ON p.oid = i.inhparent
        WHERE i.inhrelid = r.oid AND NOT r.relispartition),
      E'\nPARTITION BY ' || pg_get_partkeydef(r.oid),
      (SELECT E'\nUSING ' || quote_ident(m.amname) FROM pg_am m
        WHERE m.oid = r.relam AND m.amname <> 'heap'),
      E'\nWITH (' || array_to_string(r.reloptions, ', ') || ')') AS sql
    FROM rel r WHERE r.relkind IN ('r', 'p')
), owned AS (
  SELECT 'pg_namespace'::regclass AS class, oid, 'SCHEMA' AS kind, quote_ident(nspname) AS q,
      nspowner AS owner, nspacl AS acl, 'n' AS letter FROM pg_namespace
    WHERE oid IN (SELECT oid FROM ns) AND (nspname <> 'public' OR nspacl IS DISTINCT FROM (
      SELECT initprivs FROM pg_init_privs i WHERE i.classoid = 'pg_namespace'::regclass
        AND i.objoid = pg_namespace.oid AND i.objsubid = 0))
    AND NOT EXISTS (SELECT FROM member m
      WHERE m.classid = 'pg_namespace'::regclass AND m.objid = pg_namespace.oid)
  UNION ALL SELECT 'pg_type'::regclass, t.oid, 'TYPE', t.q, t.typowner, t.typacl, 'T' FROM typ t
    LEFT JOIN rel r ON r.oid = t.typrelid
    WHERE (t.typrelid = 0 OR r.relkind = 'c') AND t.typtype IN ('e', 'c', 'r', 'd')
  UNION ALL SELECT 'pg_proc'::regclass, p.oid, p.kind, format('%s(%s)', p.q,
      CASE WHEN p.prokind = 'a' AND p.args = '' THEN '*' ELSE p.args END),
      p.proowner, p.proacl, 'f' FROM proc p
  UNION ALL SELECT 'pg_class'::regclass, r.oid, CASE r.relkind WHEN 'S' THEN 'SEQUENCE'
      ELSE 'TABLE' END, r.q, r.relowner, r.relacl, CASE r.relkind WHEN 'S' THEN 's' ELSE 'r' END
    FROM rel r WHERE r.relkind IN ('r', 'p', 'v', 'm', 'S')
  UNION ALL SELECT 'pg_collation'::regclass, c.oid, 'COLLATION',
      format('%I.%I', n.nspname, c.collname), c.collowner, NULL, NULL
    FROM pg_collation c JOIN ns n ON n.oid = c.collnamespace
  UNION ALL SELECT 'pg_operator'::regclass, o.oid, 'OPERATOR', format('%I.%s(%s, %s)', n.nspname,
      o.oprname, coalesce(nullif(o.oprleft, 0)::regtype::text, 'NONE'),
      coalesce(nullif(o.oprright, 0)::regtype::text, 'NONE')), o.oprowner, NULL, NULL
    FROM pg_operator o JOIN ns n ON n.oid = o.oprnamespace WHERE NOT EXISTS (
      SELECT FROM member m WHERE m.classid = 'pg_operator'::regclass AND m.objid = o.oid)
  UNION ALL SELECT 'pg_statistic_ext'::regclass, s.oid, 'STATISTICS',
      format('%I.%I', n.nspname, s.stxname), s.stxowner, NULL, NULL
    FROM pg_statistic_ext s JOIN ns n ON n.oid = s.stxnamespace
  UNION ALL SELECT 'pg_publication'::regclass, oid, 'PUBLICATION', quote_ident(pubname), pubowner,
      NULL, NULL FROM pg_publication
), statement(class, oid, rank, sql) AS (
  SELECT 'pg_namespace'::regclass, n.oid, 1, format('CREATE SCHEMA %I', nspname) FROM ns n
    WHERE nspname <> 'public' AND NOT EXISTS (SELECT FROM member m
      WHERE m.classid = 'pg_namespace'::regclass AND m.objid = n.oid)
  UNION ALL SELECT 'pg_extension'::regclass, e.oid, 2,
      format('CREATE EXTENSION IF NOT EXISTS %I WITH SCHEMA %I', e.extname, n.nspname)
    FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname <> 'plpgsql'
  UNION ALL SELECT 'pg_collation'::regclass, c.oid, 3, format('CREATE COLLATION %I.%I (%s)',
      n.nspname, c.collname, concat_ws(', ',
        CASE c.collprovider WHEN 'i' THEN 'provider = icu' WHEN 'c' THEN 'provider = libc'
          WHEN 'b' THEN 'provider = builtin' END,
        CASE WHEN NOT c.collisdeterministic THEN 'deterministic = false' END,
        CASE c.collprovider WHEN 'c' THEN format('lc_collate = %L, lc_ctype = %L', c.collcollate, c.collctype)
          ELSE format('locale = %L', coalesce(to_jsonb(c) ->> 'colllocale',
            to_jsonb(c) ->> 'colliculocale', c.collcollate)) END,
        'rules = ' || quote_literal(to_jsonb(c) ->> 'collicurules')))
    FROM pg_collation c JOIN ns n ON n.oid = c.collnamespace
  UNION ALL SELECT 'pg_type'::regclass, t.oid, 4, format('CREATE TYPE %s AS ENUM (%s)', t.q,
      (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
        FROM pg_enum e WHERE e.enumtypid = t.oid))
    FROM typ t WHERE t.typtype = 'e'
  UNION ALL SELECT 'pg_type'::regclass, t.oid, 4, format('CREATE TYPE %s AS (%s)', t.q,
      (SELECT string_agg(format(E'\n    %I %s', a.attname, a.type), ',' ORDER BY a.attnum)
        FROM attribute a WHERE a.attrelid = t.typrelid))
    FROM typ t JOIN rel r ON r.oid = t.typrelid WHERE r.relkind = 'c'
  UNION ALL SELECT 'pg_type'::regclass, t.oid, 4, format('CREATE TYPE %s AS RANGE (%s)', t.q,
      concat_ws(', ', 'subtype = ' || format_type(g.rngsubtype, NULL),
        (SELECT format('multirange_type_name = %I.%I', mn.nspname, m.typname) FROM pg_type m
          JOIN pg_namespace mn ON mn.oid = m.typnamespace
          WHERE m.oid = (to_jsonb(g) ->> 'rngmultitypid')::oid),
        (SELECT format('subtype_opclass = %I.%I', n.nspname, o.opcname) FROM pg_opclass o
          JOIN pg_namespace n ON n.oid = o.opcnamespace
          WHERE o.oid = g.rngsubopc AND NOT o.opcdefault),
        (SELECT format('collation = %I.%I', n.nspname, o.collname) FROM pg_collation o
          JOIN pg_namespace n ON n.oid = o.collnamespace JOIN pg_type s ON s.oid = g.rngsubtype
          WHERE o.oid = g.rngcollation AND s.typcollation <> o.oid),
        'subtype_diff = ' || nullif(g.rngsubdiff, 0)::regproc))
    FROM typ t JOIN pg_range g ON g.rngtypid = t.oid
  UNION ALL SELECT 'pg_type'::regclass, t.oid, 4, concat('CREATE DOMAIN ', t.q, ' AS ',
      format_type(t.typbasetype, t.typtypmod),
      (SELECT format(' COLLATE %I.%I', n.nspname, o.collname) FROM pg_collation o
        JOIN pg_namespace n ON n.oid = o.collnamespace JOIN pg_type b ON b.oid = t.typbasetype
        WHERE o.oid = t.typcollation AND b.typcollation <> o.oid),
      CASE WHEN t.typnotnull THEN ' NOT NULL' END, ' DEFAULT ' || t.typdefault,
      (SELECT string_agg(format(E'\n    CONSTRAINT %I %s', c.conname, pg_get_constraintdef(c.oid)), ''
        ORDER BY c.conname) FROM pg_constraint c
        WHERE c.contypid = t.oid AND c.contype = 'c' AND c.convalidated))
    FROM typ t WHERE t.typtype = 'd'
  UNION ALL SELECT 'pg_proc'::regclass, p.oid, 5, rtrim(pg_get_functiondef(p.oid), E'\n')
    FROM proc p WHERE p.prokind <> 'a'
  UNION ALL SELECT 'pg_proc'::regclass, p.oid, 6, format('CREATE AGGREGATE %s(%s) (%s)', p.q,
      coalesce(nullif(pg_get_function_arguments(p.oid), ''), '*'), concat_ws(', ',
        'SFUNC = ' || a.aggtransfn, 'STYPE = ' || format_type(a.aggtranstype, NULL),
        'SSPACE = ' || nullif(a.aggtransspace, 0),
        'FINALFUNC = ' || nullif(a.aggfinalfn, 0)::regproc,
        CASE WHEN a.aggfinalextra THEN 'FINALFUNC_EXTRA' END,
        CASE WHEN a.aggfinalfn <> 0 THEN 'FINALFUNC_MODIFY = ' || CASE a.aggfinalmodify
          WHEN 'r' THEN 'READ_ONLY' WHEN 's' THEN 'SHAREABLE' ELSE 'READ_WRITE' END END,
        'COMBINEFUNC = ' || nullif(a.aggcombinefn, 0)::regproc,
        'SERIALFUNC = ' || nullif(a.aggserialfn, 0)::regproc,
        'DESERIALFUNC = ' || nullif(a.aggdeserialfn, 0)::regproc,
        'INITCOND = ' || quote_literal(a.agginitval),
        'PARALLEL = ' || CASE p.proparallel WHEN 's' THEN 'SAFE' WHEN 'r' THEN 'RESTRICTED' END))
    FROM proc p JOIN pg_aggregate a ON a.aggfnoid = p.oid
  UNION ALL SELECT 'pg_operator'::regclass, o.oid, 7, format('CREATE OPERATOR %I.%s (%s)',
      n.nspname, o.oprname, concat_ws(', ', 'FUNCTION = ' || o.oprcode,
        'LEFTARG = ' || format_type(nullif(o.oprleft, 0), NULL),
        'RIGHTARG = ' || format_type(nullif(o.oprright, 0), NULL),
        (SELECT format('COMMUTATOR = OPERATOR(%I.%s)', cn.nspname, c.oprname) FROM pg_operator c
          JOIN pg_namespace cn ON cn.oid = c.oprnamespace WHERE c.oid = o.oprcom),
        (SELECT format('NEGATOR = OPERATOR(%I.%s)', cn.nspname, c.oprname) FROM pg_operator c
          JOIN pg_namespace cn ON cn.oid = c.oprnamespace WHERE c.oid = o.oprnegate),
        'RESTRICT = ' || nullif(o.oprrest, 0)::regproc, 'JOIN = ' || nullif(o.oprjoin, 0)::regproc,
        CASE WHEN o.oprcanhash THEN 'HASHES' END, CASE WHEN o.oprcanmerge THEN 'MERGES' END))
    FROM pg_operator o JOIN ns n ON n.oid = o.oprnamespace WHERE o.oprcode <> 0 AND NOT EXISTS (
      SELECT FROM member m WHERE m.classid = 'pg_operator'::regclass AND m.objid = o.oid)
  UNION ALL SELECT 'pg_class'::regclass, s.oid, 8, concat('CREATE ',
      CASE s.relpersistence WHEN 'u' THEN 'UNLOGGED ' END, 'SEQUENCE ', s.q, ' AS ', s.type, s.options)
    FROM sequence s WHERE s.deptype IS DISTINCT FROM 'i'
  UNION ALL SELECT 'pg_class'::regclass, oid, 9, sql FROM tab
  UNION ALL SELECT 'pg_class'::regclass, r.oid, 10, format('CREATE VIEW %s%s AS%s', r.q,
      ' WITH (' || array_to_string(r.reloptions, ', ') || ')',
      E'\n' || rtrim(pg_get_viewdef(r.oid), ';')) FROM rel r WHERE r.relkind = 'v'
  UNION ALL SELECT 'pg_class'::regclass, r.oid, 10, format('CREATE MATERIALIZED VIEW %s%s%s AS%s'
      || E'\nWITH NO DATA', r.q,
      (SELECT E'\nUSING ' || quote_ident(m.amname) FROM pg_am m
        WHERE m.oid = r.relam AND m.amname <> 'heap'),
      ' WITH (' || array_to_string(r.reloptions, ', ') || ')',
      E'\n' || rtrim(pg_get_viewdef(r.oid), ';')) FROM rel r WHERE r.relkind = 'm'
  UNION ALL SELECT 0, a.attrelid, 20,
      format('ALTER TABLE ONLY %s ALTER COLUMN %I SET DEFAULT %s', r.q, a.attname, a.expression)
    FROM attribute a JOIN rel r ON r.oid = a.attrelid WHERE a.expression IS NOT NULL
    AND a.attgenerated = '' AND (r.relkind = 'v'
      OR r.relkind IN ('r', 'p') AND NOT a.attislocal AND NOT r.relispartition)
  UNION ALL SELECT 0, r.oid, 21, format('ALTER TABLE ONLY %s ATTACH PARTITION %s %s', p.q, r.q,
      pg_get_expr(r.relpartbound, r.oid)) FROM rel r JOIN pg_inherits i ON i.inhrelid = r.oid
    JOIN rel p ON p.oid = i.inhparent WHERE r.relispartition AND r.relkind IN ('r', 'p')
  UNION ALL SELECT 0, s.oid, 22, format('ALTER SEQUENCE %s OWNED BY %s.%I', s.q, r.q, a.attname)
    FROM sequence s JOIN rel r ON r.oid = s.owner
    JOIN attribute a ON a.attrelid = s.owner AND a.attnum = s.owner_column WHERE s.deptype = 'a'
  UNION ALL SELECT 0, r.oid, 23, format('ALTER TABLE ONLY %s ALTER COLUMN %I SET %s', r.q, a.attname, x)
    FROM attribute a JOIN rel r ON r.oid = a.attrelid AND r.relkind IN ('r', 'p', 'm')
    CROSS JOIN LATERAL (VALUES
      (CASE WHEN a.attstorage <> a.typstorage THEN 'STORAGE ' || CASE a.attstorage WHEN 'p' THEN 'PLAIN'
        WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END END),
      (CASE a.j ->> 'attcompression' WHEN 'p' THEN 'COMPRESSION pglz' WHEN 'l' THEN 'COMPRESSION lz4' END),
      (CASE WHEN a.attstattarget >= 0 THEN 'STATISTICS ' || a.attstattarget END),
      ('(' || array_to_string(a.attoptions, ', ') || ')')) v(x) WHERE x IS NOT NULL
  UNION ALL SELECT 0, o.oid, 30, format('ALTER %s %s OWNER TO %I', o.kind, o.q, pg_get_userbyid(o.owner))
    FROM owned o WHERE o.class NOT IN ('pg_statistic_ext'::regclass, 'pg_publication'::regclass)
    AND NOT (o.kind = 'SCHEMA' AND o.q = 'public')
    AND NOT EXISTS (SELECT FROM sequence s WHERE s.oid = o.oid AND s.deptype IN ('a', 'i'))
  UNION ALL SELECT 'pg_constraint'::regclass, c.oid, 100, c.add FROM con c
    WHERE c.contype IN ('p', 'u', 'x')
  UNION ALL SELECT 'pg_class'::regclass, r.oid, 101, pg_get_indexdef(r.oid) FROM rel r
    JOIN pg_index i ON i.indexrelid = r.oid JOIN rel t ON t.oid = i.indrelid
    WHERE NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = r.oid AND c.contype IN ('p', 'u', 'x'))
  UNION ALL SELECT 0, r.oid, 102, format('ALTER INDEX %s ATTACH PARTITION %s', p.q, r.q)
    FROM rel r JOIN pg_inherits i ON i.inhrelid = r.oid JOIN rel p ON p.oid = i.inhparent
    WHERE r.relkind IN ('i', 'I')
  UNION ALL SELECT 0, r.oid, 102, format('ALTER INDEX %s SET (%s)', r.q, array_to_string(r.reloptions, ', '))
    FROM rel r JOIN pg_constraint c ON c.conindid = r.oid AND c.contype IN ('p', 'u', 'x')
    WHERE r.reloptions IS NOT NULL
  UNION ALL SELECT 0, a.attrelid, 102, format('ALTER INDEX %s ALTER COLUMN %s SET STATISTICS %s', r.q,
      a.attnum, a.attstattarget) FROM attribute a JOIN rel r ON r.oid = a.attrelid
    WHERE r.relkind IN ('i', 'I') AND a.attstattarget >= 0
  UNION ALL SELECT 0, i.indexrelid, 103, format('ALTER TABLE %s CLUSTER ON %I', t.q, r.relname)
    FROM pg_index i JOIN rel r ON r.oid = i.indexrelid JOIN rel t ON t.oid = i.indrelid
    WHERE i.indisclustered
  UNION ALL SELECT 0, t.oid, 103, format('ALTER TABLE ONLY %s REPLICA IDENTITY %s', t.q,
      CASE t.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' ELSE (SELECT
        format('USING INDEX %I', r.relname) FROM pg_index i JOIN rel r ON r.oid = i.indexrelid
        WHERE i.indrelid = t.oid AND i.indisreplident) END)
    FROM rel t WHERE t.relkind IN ('r', 'p', 'm') AND t.relreplident NOT IN ('d')
  UNION ALL SELECT 'pg_constraint'::regclass, c.oid, 104, c.add FROM con c
    WHERE c.contype = 'c' AND NOT c.convalidated AND c.conislocal
  UNION ALL SELECT 0, c.oid, 104, format('ALTER DOMAIN %s ADD CONSTRAINT %I %s', t.q, c.conname,
      pg_get_constraintdef(c.oid)) FROM pg_constraint c JOIN typ t ON t.oid = c.contypid
    WHERE c.contype = 'c' AND NOT c.convalidated
  UNION ALL SELECT 0, c.oid, 105, c.add FROM con c WHERE c.contype = 'f' AND c.conparentid = 0
  UNION ALL SELECT 0, s.oid, 106, pg_get_statisticsobjdef(s.oid) FROM pg_statistic_ext s
    JOIN ns n ON n.oid = s.stxnamespace
  UNION ALL SELECT 0, s.oid, 107, format('ALTER STATISTICS %I.%I SET STATISTICS %s', n.nspname,
      s.stxname, to_jsonb(s) ->> 'stxstattarget') FROM pg_statistic_ext s
    JOIN ns n ON n.oid = s.stxnamespace WHERE (to_jsonb(s) ->> 'stxstattarget')::int >= 0
  UNION ALL SELECT 'pg_rewrite'::regclass, w.oid, 108, rtrim(pg_get_ruledef(w.oid), ';') FROM pg_rewrite w
    JOIN rel r ON r.oid = w.ev_class WHERE w.rulename <> '_RETURN'
  UNION ALL SELECT 'pg_trigger'::regclass, g.oid, 109, pg_get_triggerdef(g.oid) FROM pg_trigger g
    JOIN rel r ON r.oid = g.tgrelid
    WHERE NOT g.tgisinternal AND coalesce((to_jsonb(g) ->> 'tgparentid')::oid, 0) = 0
  UNION ALL SELECT 0, x.oid, 110, format('ALTER TABLE %s %s %s %I', r.q, CASE x.enabled
      WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, x.kind, x.name)
    FROM (SELECT oid, tgrelid, tgenabled, 'TRIGGER', tgname FROM pg_trigger WHERE NOT tgisinternal
      UNION ALL SELECT oid, ev_class, ev_enabled, 'RULE', rulename FROM pg_rewrite
      WHERE rulename <> '_RETURN') x(oid, rel, enabled, kind, name)
    JOIN rel r ON r.oid = x.rel WHERE x.enabled <> 'O'
  UNION ALL SELECT 0, p.oid, 111, concat(format('CREATE POLICY %I ON %s', p.polname, r.q),
      CASE WHEN NOT p.polpermissive THEN ' AS RESTRICTIVE' END, CASE p.polcmd WHEN 'r' THEN ' FOR SELECT'
        WHEN 'a' THEN ' FOR INSERT' WHEN 'w' THEN ' FOR UPDATE' WHEN 'd' THEN ' FOR DELETE' END,
      (SELECT ' TO ' || string_agg(quote_ident(pg_get_userbyid(u)), ', ')
        FROM unnest(p.polroles) u WHERE u <> 0),
      ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
      ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')
    FROM pg_policy p JOIN rel r ON r.oid = p.polrelid
  UNION ALL SELECT 0, r.oid, 112, format('ALTER TABLE %s %s ROW LEVEL SECURITY', r.q, x) FROM rel r
    CROSS JOIN LATERAL (VALUES (CASE WHEN r.relrowsecurity THEN 'ENABLE' END),
      (CASE WHEN r.relforcerowsecurity THEN 'FORCE' END)) v(x)
    WHERE x IS NOT NULL AND r.relkind IN ('r', 'p')
  UNION ALL SELECT 0, p.oid, 113, format('CREATE PUBLICATION %I%s WITH (publish = %L%s)', p.pubname,
      CASE WHEN p.puballtables THEN ' FOR ALL TABLES' END, concat_ws(', ',
        CASE WHEN p.pubinsert THEN 'insert' END, CASE WHEN p.pubupdate THEN 'update' END,
        CASE WHEN p.pubdelete THEN 'delete' END, CASE WHEN p.pubtruncate THEN 'truncate' END),
      CASE WHEN (to_jsonb(p) ->> 'pubviaroot')::bool THEN ', publish_via_partition_root = true' END)
    FROM pg_publication p
  UNION ALL SELECT 0, x.oid, 114, concat(format('ALTER PUBLICATION %I ADD TABLE ONLY %s', p.pubname, r.q),
      (SELECT ' (' || string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) || ')' FROM attribute a
        WHERE a.attrelid = r.oid AND a.attnum IN (SELECT n::int2
          FROM jsonb_array_elements_text(nullif(to_jsonb(x) -> 'prattrs', 'null')) n)),
      (SELECT ' WHERE (' || (to_jsonb(t) ->> 'rowfilter') || ')' FROM pg_publication_tables t
        WHERE t.pubname = p.pubname AND format('%I.%I', t.schemaname, t.tablename) = r.q))
    FROM pg_publication_rel x JOIN pg_publication p ON p.oid = x.prpubid JOIN rel r ON r.oid = x.prrelid
  UNION ALL SELECT 0, o.oid, 115, format('ALTER %s %s OWNER TO %I', o.kind, o.q, pg_get_userbyid(o.owner))
    FROM owned o WHERE o.class IN ('pg_statistic_ext'::regclass, 'pg_publication'::regclass)
  UNION ALL SELECT 0, d.objoid, 116, format('COMMENT ON %s %s IS %L', CASE i.type
      WHEN 'table column' THEN 'COLUMN' WHEN 'table constraint' THEN 'CONSTRAINT'
      WHEN 'view column' THEN 'COLUMN' WHEN 'materialized view column' THEN 'COLUMN'
      WHEN 'composite type column' THEN 'COLUMN' WHEN 'composite type' THEN 'TYPE'
      WHEN 'domain constraint' THEN 'CONSTRAINT' WHEN 'statistics object' THEN 'STATISTICS'
      ELSE upper(i.type) END, CASE i.type WHEN 'domain constraint'
      THEN replace(i.identity, ' on ', ' on domain ') ELSE i.identity END, d.description)
    FROM pg_description d CROSS JOIN LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) i
    WHERE d.objoid >= 16384 AND d.classoid <> 'pg_extension'::regclass AND i.type IS NOT NULL
    AND NOT EXISTS (SELECT FROM member m WHERE m.classid = d.classoid AND m.objid = d.objoid)
  UNION ALL SELECT 0, o.oid, x.rank, x.sql FROM owned o CROSS JOIN LATERAL (
      SELECT 120, format('REVOKE ALL ON %s %s FROM PUBLIC', o.kind, o.q) WHERE o.letter IN ('f', 'T', 'n')
      UNION ALL SELECT 121, format('REVOKE ALL ON %s %s FROM %I', o.kind, o.q, pg_get_userbyid(o.owner))
      UNION ALL SELECT 122 + a.n::int, format('GRANT %s ON %s %s TO %s%s', a.privilege_type, o.kind, o.q,
        CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
      FROM aclexplode(o.acl) WITH ORDINALITY a(grantor, grantee, privilege_type, is_grantable, n)
    ) x(rank, sql) WHERE o.acl IS NOT NULL
  UNION ALL SELECT 0, a.attrelid, 200 + g.n::int, format('GRANT %s (%I) ON TABLE %s TO %s%s',
      g.privilege_type, a.attname, r.q,
      CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END,
      CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM attribute a JOIN rel r ON r.oid = a.attrelid
    CROSS JOIN LATERAL aclexplode(a.attacl) WITH ORDINALITY g(grantor, grantee, privilege_type, is_grantable, n)
), -- What an object is part of: its own statement has to wait for what the part needs.
whole(class, oid, of_class, of) AS (
  SELECT 'pg_rewrite'::regclass::oid, w.oid, 'pg_class'::regclass::oid, w.ev_class FROM pg_rewrite w
    WHERE w.rulename = '_RETURN'
  UNION ALL SELECT 'pg_attrdef'::regclass, d.oid, 'pg_class'::regclass, d.adrelid FROM pg_attrdef d
  UNION ALL SELECT 'pg_constraint'::regclass, c.oid, 'pg_class'::regclass, c.conrelid
    FROM pg_constraint c WHERE c.contype = 'c' AND c.conrelid <> 0
  UNION ALL SELECT 'pg_constraint'::regclass, c.oid, 'pg_type'::regclass, c.contypid
    FROM pg_constraint c WHERE c.contypid <> 0
  UNION ALL SELECT 'pg_type'::regclass, t.oid, 'pg_class'::regclass, t.typrelid FROM pg_type t
    JOIN rel r ON r.oid = t.typrelid WHERE r.relkind <> 'c'
  UNION ALL SELECT 'pg_class'::regclass, r.oid, 'pg_type'::regclass, r.reltype FROM rel r
    WHERE r.relkind = 'c'
  UNION ALL SELECT 'pg_type'::regclass, a.oid, 'pg_type'::regclass, a.typelem FROM pg_type a
    WHERE a.typelem <> 0 AND a.oid >= 16384
), needs(class, oid, on_class, on_oid) AS (
  SELECT DISTINCT coalesce(b.of_class, d.classid)::int8, coalesce(b.of, d.objid)::int8,
      coalesce(r.of_class, d.refclassid)::int8, coalesce(r.of, d.refobjid)::int8
    FROM pg_depend d
    LEFT JOIN whole b ON b.class = d.classid AND b.oid = d.objid
    LEFT JOIN whole r ON r.class = d.refclassid AND r.oid = d.refobjid
    WHERE d.objid >= 16384 AND d.refobjid >= 16384 AND d.deptype IN ('n', 'a')
    AND NOT (d.classid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype = 'a')
), -- What nobody here knows how to write down.
other(name) AS (
  SELECT i.type || ' ' || i.identity FROM (
      SELECT 'pg_cast'::regclass, oid FROM pg_cast UNION ALL SELECT 'pg_conversion'::regclass, oid FROM pg_conversion
      UNION ALL SELECT 'pg_event_trigger'::regclass, oid FROM pg_event_trigger
      UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid FROM pg_foreign_data_wrapper
      UNION ALL SELECT 'pg_foreign_server'::regclass, oid FROM pg_foreign_server
      UNION ALL SELECT 'pg_language'::regclass, oid FROM pg_language
      UNION ALL SELECT 'pg_am'::regclass, oid FROM pg_am
      UNION ALL SELECT 'pg_opclass'::regclass, oid FROM pg_opclass
      UNION ALL SELECT 'pg_opfamily'::regclass, oid FROM pg_opfamily
      UNION ALL SELECT 'pg_transform'::regclass, oid FROM pg_transform
      UNION ALL SELECT 'pg_default_acl'::regclass, oid FROM pg_default_acl
      UNION ALL SELECT 'pg_ts_config'::regclass, oid FROM pg_ts_config
      UNION ALL SELECT 'pg_ts_dict'::regclass, oid FROM pg_ts_dict
      UNION ALL SELECT 'pg_ts_parser'::regclass, oid FROM pg_ts_parser
      UNION ALL SELECT 'pg_ts_template'::regclass, oid FROM pg_ts_template
      UNION ALL SELECT 'pg_class'::regclass, oid FROM rel WHERE relkind = 'f' OR reloftype <> 0
      UNION ALL SELECT 'pg_type'::regclass, t.oid FROM typ t WHERE t.typtype IN ('b', 'p')
        AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
      UNION ALL SELECT 'pg_type'::regclass, t.oid FROM typ t JOIN pg_range g ON g.rngtypid = t.oid
        WHERE g.rngcanonical <> 0
      UNION ALL SELECT 'pg_proc'::regclass, p.oid FROM proc p JOIN pg_aggregate a ON a.aggfnoid = p.oid
        WHERE a.aggmtransfn <> 0 OR a.aggkind = 'h' OR a.aggsortop <> 0
    ) o(class, oid) CROSS JOIN LATERAL pg_identify_object(o.class, o.oid, 0) i
    WHERE o.oid >= 16384 AND NOT EXISTS (
      SELECT FROM member m WHERE m.classid = o.class AND m.objid = o.oid)
)
SELECT json_build_object(
  'statements', (SELECT coalesce(json_agg(json_build_array(class::oid::int8, oid::int8, rank,
    sql) ORDER BY rank, sql COLLATE "C"), '[]') FROM statement),
  'needs', (SELECT coalesce(json_agg(json_build_array(n.class, n.oid, n.on_class, n.on_oid)), '[]') FROM needs n),
  'others', (SELECT coalesce(json_agg(name), '[]') FROM other))::text
