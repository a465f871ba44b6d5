-- How Argo CD says how an EventExport is: the script for resource.customizations.health.eventexport.io_EventExport
-- in the ConfigMap argocd-cm (see argocd-cm.yaml beside this file).
--
-- Progressing: not looked at yet, or it goes on by itself.   Healthy: accepted, and nothing is overdue, short or lost.
-- Degraded: a person is needed; the message says for what.   Suspended: spec.suspend is true.
--
-- It uses no library of Lua, so useOpenLibs is not needed.

local health = {status = "Progressing", message = "the operator has not looked at it yet"}
if obj.status == nil or obj.status.conditions == nil then
  return health
end
-- A status of an older spec says nothing about this one. The schema's default is -1.
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
