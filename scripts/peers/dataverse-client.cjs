// dataverse-client.cjs MODULES BASE TOKEN: drives a Dataverse organization with the client dynamics-web-api.
//
// MODULES is the folder node_modules that holds it, BASE the root of the organization. Prints one JSON object that tells what the client saw; a failure is an
// exit code of 1.
"use strict";
const [modules, base, token] = process.argv.slice(2);
const { DynamicsWebApi } = require(`${modules}/dynamics-web-api`);

const api = new DynamicsWebApi({
  serverUrl: base,
  dataApi: { version: "9.2" },
  onTokenRefresh: async () => token,
});

async function main() {
  const saw = {};
  saw.who = (await api.callFunction({ functionName: "WhoAmI" })).OrganizationId;
  const made = await api.create({
    collection: "contacts",
    data: { firstname: "Ann", lastname: "O'Hara", emailaddress1: "ann@example.com" },
  });
  const key = typeof made === "string" ? made : made.contactid;
  saw.made = key.length;
  const read = await api.retrieve({ collection: "contacts", key, select: ["fullname", "emailaddress1"] });
  saw.name = read.fullname;
  saw.etag = read["@odata.etag"].startsWith('W/"');
  await api.update({ collection: "contacts", key, data: { lastname: "Smith" }, ifmatch: read["@odata.etag"] });
  // the client answers false where the version is another one
  saw.late = await api.update({ collection: "contacts", key, data: { lastname: "Late" }, ifmatch: read["@odata.etag"] });
  for (let n = 0; n < 7; n++) {
    await api.create({ collection: "contacts", data: { lastname: `number ${n}`, emailaddress1: `n${n}@example.com` } });
  }
  const all = await api.retrieveAll({ collection: "contacts", select: ["lastname"], orderBy: ["lastname asc"], maxPageSize: 3 });
  saw.all = all.value.map((row) => row.lastname);
  const some = await api.retrieveMultiple({
    collection: "contacts",
    select: ["contactid"],
    filter: "startswith(lastname,'number') and (emailaddress1 eq 'N3@example.com' or lastname eq 'number 4')",
  });
  saw.some = some.value.length;
  const email = await api.create({
    collection: "emails",
    data: {
      subject: "from JavaScript",
      email_activity_parties: [
        { participationtypemask: 1, addressused: "zoe@example.com" },
        { participationtypemask: 2, "partyid_contact@odata.bind": `/contacts(${key})` },
      ],
    },
  });
  const id = typeof email === "string" ? email : email.activityid;
  const parties = await api.retrieve({
    collection: "emails",
    key: id,
    select: ["subject"],
    expand: [{ property: "email_activity_parties", select: ["participationtypemask", "_partyid_value"] }],
  });
  saw.parties = parties.email_activity_parties.length;
  const sent = await api.callAction({
    collection: "emails",
    key: id,
    actionName: "Microsoft.Dynamics.CRM.SendEmail",
    action: { IssueSend: true, TrackingToken: "" },
  });
  saw.sent = sent.Subject;
  api.startBatch();
  api.create({ collection: "accounts", data: { name: "one" } });
  api.create({ collection: "accounts", data: { name: "two" } });
  saw.batch = (await api.executeBatch()).length;
  api.startBatch();
  api.create({ collection: "accounts", data: { name: "three" } });
  api.create({ collection: "accounts", data: { nonsense: 1 } });
  try {
    await api.executeBatch();
    saw.failed = "taken";
  } catch (error) {
    saw.failed = [].concat(error)[0].code || [].concat(error)[0].message;
  }
  saw.accounts = (await api.retrieveMultiple({ collection: "accounts", select: ["name"] })).value.length;
  const tracked = await api.retrieveMultiple({ collection: "accounts", select: ["name"], trackChanges: true });
  saw.delta = "@odata.deltaLink" in tracked || "oDataDeltaLink" in tracked;
  await api.deleteRecord({ collection: "contacts", key });
  try {
    await api.retrieve({ collection: "contacts", key });
    saw.gone = "there";
  } catch (error) {
    saw.gone = error.status;
  }
  console.log(JSON.stringify(saw));
}
main().catch((error) => {
  console.error(error);
  process.exit(1);
});
