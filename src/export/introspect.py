# Fed by coeval to `manage.py shell`: tells how the models of an application lie in its tables, as one
# line of JSON that begins with {"django". Everything is in one function, because the scope in which a
# shell runs its input differs; the only blank line is the last, because a shell that finds its input
# late reads it as if it were typed.
def coeval_introspect():
    import json, os, platform, sys, sysconfig, django
    from django.apps import apps
    from django.conf import settings
    from django.core.files.storage import FileSystemStorage
    from django.db import connection, router
    def from_django(cls):
        return cls.__module__.startswith("django.")
    def custom(field):
        names = [n for n in ("value_to_string", "value_from_object", "from_db_value") if hasattr(type(field), n)]
        owners = [next(c for c in type(field).__mro__ if n in vars(c)) for n in names]
        return not all(map(from_django, owners)) or hasattr(field, "base_field") and custom(field.base_field)
    def kind(field):
        base = next(c for c in type(field).__mro__ if from_django(c))
        found = {"internal_type": field.get_internal_type(), "base_type": base.__name__}
        if getattr(field, "decimal_places", None) is not None:
            found.update(max_digits=field.max_digits, decimal_places=field.decimal_places)
        if hasattr(field, "base_field"):
            found["base_field"] = kind(field.base_field)
        if isinstance(getattr(field, "storage", None), FileSystemStorage):
            found["storage"] = str(field.storage.location)
        return found
    def column(field):
        to = field.target_field if field.remote_field else None
        return {
            "name": field.name, "attname": field.attname, "column": field.column, **kind(field), "null": field.null,
            "serialize": field.serialize, "generated": bool(getattr(field, "generated", False)),
            "custom_value_to_string": custom(field),
            "target": to and {"model": to.model._meta.label_lower, "field": to.name, "column": to.column,
                              "db_constraint": field.db_constraint}}
    def many(field):
        through, target = field.remote_field.through._meta, field.remote_field.model._meta
        return {
            "name": field.name, "table": through.db_table, "through": through.label_lower,
            "auto_created": bool(through.auto_created), "source_column": field.m2m_column_name(),
            "target_column": field.m2m_reverse_name(), "target": target.label_lower,
            "ordering": [str(o) for o in target.ordering], "serialize": field.serialize}
    def model(cls):
        meta = cls._meta
        generic = [f for f in meta.private_fields if hasattr(f, "ct_field") and hasattr(f, "fk_field")]
        return {
            "label": meta.label_lower, "object_name": meta.object_name, "table": meta.db_table, "proxy": meta.proxy,
            "managed": meta.managed, "swapped": bool(meta.swapped), "auto_created": bool(meta.auto_created),
            "routed": router.allow_migrate_model(connection.alias, cls),
            "pk": {"name": meta.pk.name, "columns": [f.column for f in getattr(meta, "pk_fields", [meta.pk])]},
            "parents": [{"model": p._meta.label_lower, "field": f and f.name} for p, f in meta.parents.items()],
            "fields": [column(f) for f in meta.local_concrete_fields],
            "many_to_many": [many(f) for f in meta.local_many_to_many if f.remote_field.through],
            "generic": [{"name": f.name, "ct_field": f.ct_field, "fk_field": f.fk_field} for f in generic],
            "natural_key": {"dumps": hasattr(cls, "natural_key"),
                            "loads": hasattr(cls._default_manager, "get_by_natural_key")}}
    def files():
        # What the answer depends on; the standard library comes with the interpreter.
        base = os.path.dirname(os.path.abspath(sys.argv[0]))
        endings = (".py", ".env", ".toml", ".ini", ".cfg", ".json", ".yaml", ".yml")
        found = {sys.executable, *(e.path for e in os.scandir(base) if e.name.endswith(endings) or e.name.startswith(".env"))}
        for module in list(sys.modules.values()):
            path = os.path.abspath(getattr(module, "__file__", None) or base)
            parts = path.split(os.sep)
            packages = next((i for i, p in enumerate(parts) if p in ("site-packages", "dist-packages")), None)
            if packages is not None:
                found.add(os.sep.join(parts[:packages + 1]))
            elif path != base and not path.startswith(sysconfig.get_paths()["stdlib"] + os.sep):
                found.update({path} if os.path.dirname(path) == base else {path, os.path.dirname(path)})
        return sorted(found)
    print("\n" + json.dumps({"files": files()}))
    print("\n" + json.dumps({
        "django": django.get_version(), "python": platform.python_version(), "database": {
            "vendor": connection.vendor, "engine": connection.settings_dict["ENGINE"],
            **{k.lower(): str(connection.settings_dict.get(k) or "") for k in ("NAME", "HOST", "PORT")}},
        "use_tz": settings.USE_TZ, "time_zone": settings.TIME_ZONE, "user_model": settings.AUTH_USER_MODEL.lower(),
        "session_engine": settings.SESSION_ENGINE, "password_hashers": list(settings.PASSWORD_HASHERS),
        "installed_apps": [c.name for c in apps.get_app_configs()], "media_root": str(settings.MEDIA_ROOT),
        "models": [model(c) for c in apps.get_models(include_auto_created=True, include_swapped=True)]}))

coeval_introspect()
