-- Health of an EventExport in Argo CD: the script for resource.customizations.health.eventexport.io_EventExport
-- in the ConfigMap argocd-cm (see argocd-cm.yaml in this folder).
--
-- Progressing: not reconciled yet, or retried automatically.   Healthy: accepted, and nothing is overdue, short or lost.
-- Degraded: needs manual action, see the message.   Suspended: spec.suspend is true.
--
-- It uses no Lua library, so useOpenLibs is not needed.

local health = {status = "Progressing", message = "the operator has not looked at it yet"}
if obj.status == nil or obj.status.conditions == nil then
  return health
end
-- A status of an older generation does not describe this spec. The schema's default is -1.
if obj.status.observedGeneration ~= obj.metadata.generation then
  health.message = "the operator has not acted upon the newest spec yet"
  return health
end

local is = {}
for _, condition in ipairs(obj.status.conditions) do
  is[condition.type] = condition
end
local ready, stalled, reconciling = is.Ready, is.Stalled, is.Reconciling

if ready == nil then
  return health
end
health.message = ready.reason .. ": " .. (ready.message or "")
if ready.reason == "Suspended" then
  health.status = "Suspended"
elseif reconciling ~= nil and reconciling.status == "True" then
  health.status = "Progressing"
elseif stalled ~= nil and stalled.status == "True" then
  health.status = "Degraded"
  health.message = stalled.reason .. ": " .. (stalled.message or "")
elseif ready.status == "True" then
  health.status = "Healthy"
end
return health
