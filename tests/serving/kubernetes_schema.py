"""What Kubernetes takes, of the kinds that `serving-config` writes; nothing beside what is named here.

Written by hand after the API reference of Kubernetes 1.32 (apps/v1, v1, autoscaling/v2). The whole schemas are those
of the package kubernetes-validate, which is too large for every run; where it is installed it is asked too.
"""

NAME = {"type": "string", "pattern": "^[a-z]([a-z0-9-]*[a-z0-9])?$", "maxLength": 63}
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi)?$"}
COUNT = {"type": "integer", "minimum": 1}
TEXT = {"type": "string", "minLength": 1}
LABELS = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}, "minProperties": 1}


def a(required=(), **properties):
    """An object of these fields."""
    return {
        "type": "object", "properties": properties, "additionalProperties": False, "required": list(required)}


def every(item):
    return {"type": "array", "items": item, "minItems": 1}


METADATA = a(["name", "labels"], name=NAME, labels=LABELS)
PORT = {"anyOf": [NAME, {"type": "integer", "minimum": 1, "maximum": 65535}]}
PROBE = a(
    ["httpGet"], httpGet=a(["path", "port"], path={"type": "string", "pattern": "^/"}, port=PORT),
    periodSeconds=COUNT, timeoutSeconds=COUNT, failureThreshold=COUNT, initialDelaySeconds=COUNT)
RESOURCES = a(cpu=QUANTITY, memory=QUANTITY, storage=QUANTITY)
CONTAINER = a(
    ["name", "image", "resources", "startupProbe", "readinessProbe", "livenessProbe"], name=NAME, image=TEXT,
    command=every(TEXT), args=every(TEXT),
    ports=every(a(["name", "containerPort"], name={**NAME, "maxLength": 15}, containerPort=PORT)),
    startupProbe=PROBE, readinessProbe=PROBE, livenessProbe=PROBE,
    lifecycle=a(preStop=a(exec=a(["command"], command=every(TEXT)))),
    resources=a(["requests"], requests=RESOURCES, limits=RESOURCES),
    securityContext=a(
        allowPrivilegeEscalation={"type": "boolean"}, capabilities=a(drop=every(TEXT))),
    volumeMounts=every(a(
        ["name", "mountPath"], name=NAME, mountPath={"type": "string", "pattern": "^/"}, readOnly={"type": "boolean"})))
POD = a(
    ["containers"], terminationGracePeriodSeconds=COUNT, containers=every(CONTAINER),
    volumes=every(a(
        ["name"], name=NAME, configMap=a(["name"], name=NAME),
        persistentVolumeClaim=a(["claimName"], claimName=NAME, readOnly={"type": "boolean"}))))


def kind(api_version, name, **fields):
    return a(
        ["apiVersion", "kind", "metadata", *fields], apiVersion={"const": api_version}, kind={"const": name},
        metadata=METADATA, **fields)


KINDS = {
    "Deployment": kind("apps/v1", "Deployment", spec=a(
        ["selector", "template"], selector=a(["matchLabels"], matchLabels=LABELS), replicas=COUNT,
        strategy=a(
            type={"enum": ["RollingUpdate", "Recreate"]},
            rollingUpdate=a(maxUnavailable={"type": "integer"}, maxSurge={"type": "integer"})),
        template=a(["metadata", "spec"], metadata=a(labels=LABELS, annotations=LABELS), spec=POD))),
    "Service": kind("v1", "Service", spec=a(
        ["selector", "ports"], selector=LABELS,
        ports=every(a(["name", "port"], name=NAME, port=PORT, targetPort=PORT, appProtocol=TEXT)))),
    "HorizontalPodAutoscaler": kind("autoscaling/v2", "HorizontalPodAutoscaler", spec=a(
        ["scaleTargetRef", "maxReplicas"],
        scaleTargetRef=a(["kind", "name"], apiVersion=TEXT, kind=TEXT, name=NAME), minReplicas=COUNT, maxReplicas=COUNT,
        metrics=every(a(["type", "resource"], type={"const": "Resource"}, resource=a(
            ["name", "target"], name={"enum": ["cpu", "memory"]},
            target=a(["type"], type={"enum": ["Utilization", "AverageValue"]}, averageUtilization=COUNT)))),
        behavior=a(scaleDown=a(stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600})))),
    "PersistentVolumeClaim": kind("v1", "PersistentVolumeClaim", spec=a(
        ["accessModes", "resources"],
        accessModes=every({"enum": ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]}),
        resources=a(["requests"], requests=RESOURCES))),
    "ConfigMap": kind("v1", "ConfigMap", data={
        "type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1})}
