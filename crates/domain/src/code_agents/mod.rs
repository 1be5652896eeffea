//! code_agents
/// The service.
pub struct CodeAgents {}
